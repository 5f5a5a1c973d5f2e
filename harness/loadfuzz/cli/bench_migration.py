"""``loadfuzz bench migration``: how many simulated migrations a minute."""

import sys

import click

from loadfuzz.cli.params import number_within

_HELP = """\
Simulated live migrations a minute, with faults and without, in the same run.

Two machines, a guest, an operator and a network that fails, in virtual time, as the target
migration has them; see docs/migration.md.

\b
Examples:
  loadfuzz bench migration
  loadfuzz bench migration --processes 1 --json

Exit codes:  0 done, 2 wrong arguments, 3 a promise was broken
"""


@click.command(name="migration", help=_HELP)
@click.option(
    "--processes", type=number_within(1, 64), default="2", metavar="N",
    help="Processes at once (default: 2, for which the goal is put).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print {results: [...]} on stdout.")
def command(processes: int, as_json: bool) -> None:
    """See the help text above."""
    from loadfuzz.bench import migration
    from loadfuzz.cli.figures import show

    print("measuring migrations ...", file=sys.stderr, flush=True)
    show(migration.measure(processes=processes), as_json=as_json)
