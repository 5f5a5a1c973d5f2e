"""``loadfuzz seeds``: streams to start from, the reference's or a real QEMU's."""

import asyncio
from pathlib import Path
from typing import Final

import click

from loadfuzz.cli.capturing import capture_to
from loadfuzz.corpus.making import SEEDS, make_corpus
from loadfuzz.corpus.store import write_corpus
from loadfuzz.plugins import load_target
from loadfuzz.qemu.machine import MachineSpec

MEMORY_MB_DEFAULT: Final = 4
"""Guest memory of a captured machine; most of it is zero and compresses to 9
bytes a page."""
MEMORY_MB_MAX: Final = 1024
"""More than this is no seed: it could not be loaded a hundred times a second."""


@click.group(name="seeds")
def command() -> None:
    """Make streams to start from, or take them from a real QEMU."""


@command.command(short_help="Write the reference's seeds with a manifest.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("corpus"),
    show_default=True,
    help="Folder to write; new, empty, or a corpus that is to be made again.",
)
def make(out: Path) -> None:
    """Write the reference's seeds, damaged ones beside them, and a manifest.

    Made again, the corpus has the same bytes.

    \b
    Example:  loadfuzz seeds make --out corpus
              loadfuzz corpus verify corpus
    """
    target = load_target("reference")
    made = make_corpus(target)
    changed = write_corpus(out, made.manifest, made.streams)
    size = sum(row.size for row in made.manifest.rows)
    click.echo(
        f"{out}: {len(made.streams)} streams, {size:,} bytes; "
        f"{len(changed)} written, {len(made.streams) - len(changed)} were there already"
    )
    click.echo(f"next: loadfuzz corpus verify {out}")
    click.echo(f"      loadfuzz run {target.name} --seeds {out / SEEDS}")


@command.command(short_help="Take a stream from a real QEMU.")
@click.option(
    "--qemu", required=True, metavar="BINARY", help="Path or name of a qemu-system binary."
)
@click.option(
    "--machine",
    required=True,
    metavar="M",
    help="Machine type, as -machine takes it: none, microvm, isapc, pc, q35, ...",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="D",
    help="A device, as -device takes it; may be repeated.",
)
@click.option(
    "--memory",
    default=MEMORY_MB_DEFAULT,
    show_default=True,
    metavar="MB",
    type=click.IntRange(1, MEMORY_MB_MAX),
    help="Guest memory; every page is saved.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: MACHINE.stream]",
)
@click.option(
    "--without-pages",
    is_flag=True,
    help="Leave the contents of RAM out: a smaller stream is loaded more often.",
)
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
def capture(
    qemu: str, machine: str, devices: tuple[str, ...], memory: int, out: Path | None,
    without_pages: bool, extra: tuple[str, ...],
) -> None:  # fmt: skip
    """Take a stream from a real QEMU, whose guest never runs.

    What stands behind "--" is given to QEMU as it is.

    \b
    Example:  loadfuzz seeds capture --qemu qemu-system-x86_64 --machine pc \\
                  --device virtio-net-pci --out pc.stream -- -serial null
    """
    spec = MachineSpec(qemu, machine, memory, devices, extra)
    path = out if out is not None else default_out(machine)
    asyncio.run(capture_to(spec, path, without_pages=without_pages))


def default_out(machine: str) -> Path:
    """Where a captured stream goes when nobody says where.

    Args:
        machine: as ``-machine`` takes it, options included.
    """
    kind = machine.partition(",")[0]
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in kind)
    return Path(f"{name}.stream")
