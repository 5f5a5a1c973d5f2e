"""``loadfuzz coverage``: what of the loader a corpus reaches."""

import sys
from os.path import relpath
from pathlib import Path

import click

from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode

_EVERY: int = 50


@click.command(name="coverage")
@click.argument("corpus", nargs=-1, type=click.Path(path_type=Path))
@click.option("--target", default="reference", show_default=True, help="Whose loader.")
@click.option("--html", type=click.Path(path_type=Path), metavar="DIR",
              help="Write coverage.py's HTML there.")  # fmt: skip
@click.option("--only", metavar="PART", default="",
              help="Show files with PART in their path, such as ram/ or devices/nic.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    corpus: tuple[Path, ...], target: str, html: Path | None, only: str, as_json: bool
) -> int:
    """Replay CORPUS under coverage.py and list what it does not reach.

    CORPUS are files and folders of streams; without any, the target's own seeds.  For each
    branch that no stream takes you see its line, its condition, and the fields or switches
    that guard it: what to change in a stream to get there.

    \b
    Examples:  loadfuzz coverage campaign/corpus --html htmlcov
               loadfuzz coverage corpus/seeds --only vmstate/
    Exit codes: 0 done, 2 nothing to replay, 3 the replay failed.
    """
    from loadfuzz import codec
    from loadfuzz.coverage.replaying import measure

    def told(done: int, total: int) -> None:
        if done % _EVERY == 0 or done == total:
            print(f"replayed {done} of {total}", file=sys.stderr, flush=True)

    reached = measure(target, corpus, html, told)
    branches = [branch for branch in reached.branches if only in branch.file]
    if only and not any(only in summary.file for summary in reached.files):
        raise UsageError(f"--only {only}: no such file was measured; leave it out to see all")
    if as_json:
        value = {
            "covered": reached.covered, "total": reached.total,
            "files": reached.files, "branches": branches,
        }  # fmt: skip
        print(codec.encode(value).decode())
        return ExitCode.CLEAN
    last = ""
    for branch in branches:
        if branch.file != last:
            last = branch.file
            print(_short(branch.file))
        print(f"  {branch.line:>4}  {branch.condition[:72]}")
        onward = f"to line {branch.to}" if branch.to > 0 else "to the end"
        print(f"        never {onward} in {branch.place}; guard: {branch.guard}")
    share = 100 * reached.covered / max(reached.total, 1)
    print(f"{reached.covered} of {reached.total} branches reached ({share:.1f} %)")
    if html is not None:
        print(f"open {html / 'index.html'}")
    return ExitCode.CLEAN


def _short(file: str) -> str:
    near = relpath(file)
    return near if len(near) < len(file) else file
