"""``loadfuzz status``: a campaign from outside."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from loadfuzz.reporters.status import Status

_HELP = """\
Show how the campaign in FOLDER goes, or how it went, and all of its findings.

It may be running or not, here or on another machine that shares the folder; nothing is
changed. The same numbers are in FOLDER/stats: fuzzer_stats and plot_data in AFL's form,
and loadfuzz.prom for Prometheus.

\b
Examples:
  loadfuzz status nightly
  watch -n 5 loadfuzz status nightly
  loadfuzz status nightly --json | jq '.findings[].signature'

\b
Exit codes:  0 no findings, 1 findings, 2 FOLDER is no campaign's
"""


@click.command(name="status", help=_HELP)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path, as_json: bool) -> int:
    """See the help text above."""
    from loadfuzz import codec
    from loadfuzz.reporters.status import status_of

    status = status_of(folder)
    if as_json:
        print(codec.encode(status).decode())
    else:
        _print(status)
    return ExitCode.FINDINGS if status.findings else ExitCode.CLEAN


def _print(status: "Status") -> None:
    import time

    from loadfuzz.repro.report import replay_command
    from loadfuzz.wording import count, duration, printable, rate, shorten

    now = int(time.time())

    def ago(moment: int) -> str:
        return f"{duration(max(now - moment, 0))} ago" if moment else "never"

    told = {
        "running": f"running, process {status.pid}",
        "died": "not running; it ended without a word, run it again with --out to go on",
    }
    if status.shards:
        running = sum(shard.state == "running" for shard in status.shards)
        print(
            f"{printable(status.target)}: {count(len(status.shards), 'shard')}, {running} running"
        )
    else:
        print(f"{printable(status.target)}: {told.get(status.state, 'ended: ' + status.state)}")
    print(
        f"{count(status.executions, 'execution')} in {duration(status.seconds)}, "
        f"{rate(status.executions_per_second)}, {count(status.workers, 'worker')}, "
        f"{count(status.restarts, 'restart')}"
    )
    print(
        f"corpus {status.corpus:,}; last new {ago(status.last_new)}, last finding "
        f"{ago(status.last_finding)}, written {ago(status.updated)}"
    )
    for shard in status.shards:
        print(
            f"  {shard.name:12} {shard.state:14} {shard.executions:>12,} executions, "
            f"{rate(shard.executions_per_second)}, written {ago(shard.updated)}"
        )
    if not status.findings:
        print("No findings.")
    for number, finding in enumerate(status.findings, 1):
        title = finding.error or f"{finding.oracle}: {finding.title}"
        print(f"\n{number:3}. {shorten(printable(title), 75)}")
        if finding.path:
            print(f"     at {shorten(printable(finding.path), 72)}")
        print(f"     {replay_command(finding.folder)}")
