"""``loadfuzz targets``: what can be fuzzed here."""

import sys
from dataclasses import dataclass

import click

from loadfuzz import codec
from loadfuzz.errors import LoadfuzzError
from loadfuzz.exitcodes import ExitCode
from loadfuzz.plugins import TARGETS, Plugin, find, load_any_target
from loadfuzz.wording import printable


@dataclass(frozen=True, slots=True)
class Row:
    """One target.

    Attributes:
        summary: its own line about itself.
        problem: why it cannot be used, "" when it can.
    """

    name: str
    summary: str
    distribution: str
    where: str
    problem: str


@click.command(name="targets")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> int:
    """List what can be fuzzed with 'loadfuzz run NAME'.

    Targets are found by the entry-point group 'loadfuzz.targets'; a package of
    yours that registers one there is listed like the built-in ones.

    \b
    Exit codes:  0 all can be used, 3 one of them cannot, or there are none.
    """
    rows = [_row(plugin) for plugin in find(TARGETS).values()]
    if as_json:
        print(codec.encode({"targets": rows}).decode())
    else:
        width = max((len(row.name) for row in rows), default=0)
        for row in rows:
            print(f"{row.name:<{width}}  {printable(row.problem or row.summary)}")
        if not rows:
            print("no targets; install loadfuzz as a package (pip install loadfuzz)",
                  file=sys.stderr)  # fmt: skip
    good = bool(rows) and not any(row.problem for row in rows)
    return ExitCode.CLEAN if good else ExitCode.MACHINERY


def _row(plugin: Plugin) -> Row:
    try:
        target = load_any_target(plugin.name)
        summary, problem = str(target.summary), ""
    except LoadfuzzError as error:
        summary, problem = "", str(error)
    return Row(plugin.name, summary, plugin.distribution, plugin.where, problem)
