"""``loadfuzz bench``: how fast, each figure as a ratio inside one run."""

import sys
from collections.abc import Callable
from typing import Final

import click

from loadfuzz.bench import fields, inspection, ram, tax, upkeep, workers
from loadfuzz.bench.results import Figure
from loadfuzz.cli import bench_bugs, bench_migration, bench_qemu, bench_scale
from loadfuzz.cli.figures import show

RUN_EXECUTIONS: Final = 20_000
UPKEEP_EXECUTIONS: Final = 60_000


@click.group(name="bench")
def command() -> None:
    """Measure loadfuzz itself.

    Every figure has a baseline that was measured in the same run; ratios can be
    compared between machines, absolute figures cannot.
    """


command.add_command(bench_bugs.command)
command.add_command(bench_migration.command)
command.add_command(bench_qemu.command)
command.add_command(bench_scale.command)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print {results: [...]} on stdout.")
@click.option(
    "--ram-mib",
    default=256,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="RAM that is loaded and saved.",
)
@click.option(
    "--stream-mib",
    default=1024,
    show_default=True,
    type=click.IntRange(1, 16384),
    help="Size of the stream that is inspected; it is written to a temporary file.",
)
@click.option(
    "--execs",
    type=click.IntRange(100),
    help="Executions of each fuzz run that is measured (default: 20000; 60000 for upkeep, "
    "a minute of a campaign: a younger one shows more that is new, and judges it longer).",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice(["ram", "fields", "run", "upkeep", "workers", "inspect"]),
    help="Measure only this; may be repeated.",
)
def speed(
    as_json: bool, ram_mib: int, stream_mib: int, execs: int | None, only: tuple[str, ...]
) -> None:  # fmt: skip
    """Speed and memory of loading, saving, fuzzing and inspecting.

    \b
    Example:  loadfuzz bench speed --json | jq '.results[] | {name, ratio}'
    """
    parts: dict[str, Callable[[], list[Figure]]] = {
        "ram": lambda: ram.measure(ram_mib),
        "fields": fields.measure,
        "run": lambda: tax.measure(execs or RUN_EXECUTIONS),
        "upkeep": lambda: upkeep.measure(execs or UPKEEP_EXECUTIONS),
        "workers": lambda: workers.measure(execs or RUN_EXECUTIONS),
        "inspect": lambda: inspection.measure(stream_mib),
    }
    figures: list[Figure] = []
    for name, measure in parts.items():
        if not only or name in only:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures += measure()
    show(figures, as_json=as_json)
