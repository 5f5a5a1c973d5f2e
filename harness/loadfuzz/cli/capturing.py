"""A captured stream on its way into a file, and what is said about it."""

from pathlib import Path
from typing import Final

import click

from loadfuzz.errors import UsageError
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.qemu.capture import save_stream, version_of
from loadfuzz.qemu.machine import MachineSpec, running
from loadfuzz.storage import explain, write_atomic
from savevm.document import Document, Edit, RamRunNode, Role

PROBLEMS_SHOWN_MAX: Final = 5
"""Of a stream that QEMU itself made one problem is already one too many."""


async def capture_to(spec: MachineSpec, out: Path, *, without_pages: bool = False) -> None:
    """Take a stream from a QEMU and write it to ``out``.

    Cancellation ends QEMU and leaves no half file.

    Raises:
        UsageError: QEMU cannot be started so, or ``out`` cannot be a file.
        InfraError: QEMU died or hung, or the file cannot be written.
    """
    _check_out(out)
    _say(f"starting {spec.binary} -machine {spec.machine} ...")
    async with running(spec) as qemu:
        version = await version_of(qemu)
        _say(f"QEMU {version} is up, saving its state ...")
        stream = await save_stream(qemu)
    document = Document.parse(stream)
    if without_pages:
        stream = leave_out_pages(document)
        document = Document.parse(stream)
    try:
        write_atomic(out, stream)
    except OSError as error:
        raise explain(error, f"writing {out}") from error
    _report(document, f"QEMU {version} {spec.machine}", out)


def leave_out_pages(document: Document) -> bytes:
    """The stream without the contents of its RAM: whoever loads it keeps what is
    in memory, which for a loader under test is as good."""
    edits: list[Edit] = []
    for section in document.sections:
        if section.idstr != "ram" or section.type_label not in ("PART", "END"):
            continue
        for node in section.children:
            roles = {leaf.role for leaf in node.leaves()}
            if isinstance(node, RamRunNode) or roles & {Role.RAM_PAGE, Role.RAM_FILL}:
                edits.append(Edit(node.start, node.end, b""))
    return document.edited(edits)


def _check_out(out: Path) -> None:
    """Find out before QEMU is started whether ``out`` can be written."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file in it")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")


def _report(document: Document, origin: str, out: Path) -> None:
    click.echo(f"{out}: {document.size:,} bytes from {origin}")
    names = list(dict.fromkeys(section.idstr for section in document.sections))
    click.echo(f"{len(document.sections)} sections of {len(names)} devices:")
    click.echo(click.wrap_text(", ".join(names), 78, "  ", "  "))
    for problem in document.problems[:PROBLEMS_SHOWN_MAX]:
        click.echo(f"problem: {problem}")
    if document.size > STREAM_SIZE_MAX:
        click.echo(
            f"This is more than the {STREAM_SIZE_MAX:,} bytes that are mutated. Take it again "
            "with --without-pages, or with less in RAM (romfile= for a network card)."
        )
    else:
        click.echo(f"next: loadfuzz run reference --seeds {out}")
    click.echo(f"      loadfuzz inspect {out}")


def _say(text: str) -> None:
    click.echo(text, err=True)
