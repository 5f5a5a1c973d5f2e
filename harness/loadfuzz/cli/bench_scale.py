"""``loadfuzz bench scale``: what a cluster of any size would do."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.cli.params import duration_s
from loadfuzz.errors import UsageError

if TYPE_CHECKING:
    from loadfuzz.bench.scale.model import Outcome

BEHAVIOURS: Final = 5000
"""Behaviours that there are to be found: more than any campaign of an hour has shown."""
WORKERS_MAX: Final = 100_000

_HELP = """\
Simulate clusters of many sizes from the campaign in FOLDER.

What a batch costs is measured here; how fast new streams and findings come is taken from the
campaign, which has run on this machine with the native engine for a minute or more. Then a
mean-field simulation says what the supervisor, the network and the workers of a cluster of
each size would do. The same folder and costs give the same numbers.

\b
Examples:
  loadfuzz run planted --engine native --time 2m --out sample
  loadfuzz bench scale sample
  loadfuzz bench scale sample --workers 1,8,64 --batch 30s --picture scale.png
"""


def _sizes(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= WORKERS_MAX for word in words):
        raise click.BadParameter(f"give numbers from 1 to {WORKERS_MAX:,}, such as 1,10,100")
    return sorted({int(word) for word in words})


@click.command(name="scale", help=_HELP)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--workers", "sizes", default="1,2,5,10,20,50,100,200,500,1000", show_default=True,
    callback=_sizes, metavar="N,N,...", help="Sizes of cluster.",
)  # fmt: skip
@click.option(
    "--batch", "batch_s", type=duration_s, default="60s", show_default=True, metavar="TIME",
    help="How long a batch lasts.",
)  # fmt: skip
@click.option(
    "--horizon", "horizon_s", type=duration_s, default="1h", show_default=True, metavar="TIME",
    help="How long the campaign is to go on.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print {results: [...]} on stdout.")
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE",
    help="Draw the curves into a .png, .svg or .pdf (extra report).",
)  # fmt: skip
def command(
    folder: Path,
    sizes: list[int],
    batch_s: float,
    horizon_s: float,
    as_json: bool,
    picture: Path | None,
) -> None:  # fmt: skip
    """See the help text above."""
    import dataclasses

    from loadfuzz.bench.scale.measuring import measure
    from loadfuzz.bench.scale.model import rates_of_growth, simulate
    from loadfuzz.bench.scale.picture import draw
    from loadfuzz.pictures import check_picture

    if picture is not None:
        check_picture(picture)
    print("measuring what a batch costs ...", file=sys.stderr, flush=True)
    measured = measure(folder, batch_s)
    try:
        behaviours = rates_of_growth(measured.growth, BEHAVIOURS)
    except ValueError as error:
        raise UsageError(f"{folder}: {error}") from error
    outcomes: list[Outcome] = []
    alone = None
    for size in sorted({1, *sizes}):
        found = simulate(size, measured.costs, behaviours, measured.bugs, horizon_s=horizon_s)
        alone = alone or found
        if size in sizes:
            outcomes.append(
                dataclasses.replace(found, speed_up=alone.seconds_all / found.seconds_all)
            )
    if picture is not None:
        draw(outcomes, picture)
    if as_json:
        _print_json(outcomes)
        return
    _print_table(outcomes)
    costs = measured.costs
    print(
        f"\nfrom {folder}: {costs.rate:,.0f} executions/s a worker, {costs.start_s:.1f} s to start "
        f"a batch,\n{1e3 * costs.pack_s:.1f} ms to pack one of {costs.batch_bytes / 1e3:,.0f} kB, "
        f"{1e3 * costs.admit_s:.1f} ms to admit a stream, {len(measured.bugs)} findings"
    )


def _print_json(outcomes: "list[Outcome]") -> None:
    import msgspec

    from loadfuzz.bench.results import Figure

    figures: list[Figure] = []
    for at in outcomes:
        name = f"{at.workers}-workers"
        figures += [
            Figure(f"{name}-supervisor", at.supervisor, "cores", 1.0, at.supervisor),
            Figure(f"{name}-moved", at.bytes_per_s, "bytes/s", 0.0, 0.0),
            Figure(f"{name}-duplicates", at.duplicates, "of what is sent", 1.0, at.duplicates),
            Figure(f"{name}-idle", at.idle, "of the workers' time", 1.0, at.idle),
            Figure(f"{name}-behind", at.behind_s, "s", 1.0, at.behind_s),
            Figure(
                f"{name}-all-found", at.seconds_all, "s", at.seconds_all * at.speed_up, at.speed_up
            ),
        ]
    sys.stdout.buffer.write(msgspec.json.encode({"results": figures}) + b"\n")


def _print_table(outcomes: "list[Outcome]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in (
        "workers", "supervisor", "moved", "twice", "idle", "behind", "half", "all", "speed-up",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for at in outcomes:
        table.add_row(
            f"{at.workers:,}", f"{100 * at.supervisor:.1f} %", f"{at.bytes_per_s / 1e3:,.0f} kB/s",
            f"{100 * at.duplicates:.0f} %", f"{100 * at.idle:.0f} %", f"{at.behind_s:,.0f} s",
            f"{at.seconds_half:,.0f} s",
            f"{at.seconds_all:,.0f} s", f"{at.speed_up:.1f} x",
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(
        "\nsupervisor: of one core, with the admission; twice: streams that another batch had "
        "sent;\nidle: workers waiting; behind: the admission, at most; half, all: findings of "
        "the\nsample that are found"
    )
