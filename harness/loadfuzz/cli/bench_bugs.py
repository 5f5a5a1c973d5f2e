"""``loadfuzz bench bugs``: who finds known bugs, and how fast."""

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadfuzz.campaign.settings import SEED_BITS, WORKERS_MAX, cores
from loadfuzz.cli.params import duration_s, number_within
from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from loadfuzz.bench.bugs.running import Plan

_HELP = """\
Compare fuzzers on a target whose bugs are known (default: planted).

A trial is one fuzzer on one budget, from the target's seeds. Every fuzzer's inputs are
run by the same executor and judged by the same oracles; a bug is reached when its code
ran, triggered when it ran with what makes it go wrong, and detected when the oracle that
its row names rang then and named the place. Ctrl-C stops; what has ended is shown.

\b
Examples:
  loadfuzz bench bugs --list                what is planted, and what it mirrors
  loadfuzz bench bugs --trials 3 --time 60s
  loadfuzz bench bugs --fuzzer structure,bytes,zzuf --trials 10 --time 2m \\
      --out bench --picture survival.png
  loadfuzz bench bugs --out bench --report  show again what is there

\b
Exit codes:  0 done, 2 wrong arguments, 3 a trial failed, 130 interrupted
"""


@click.command(name="bugs", help=_HELP)
@click.argument("target", default="planted")
@click.option(
    "--fuzzer",
    "fuzzers",
    multiple=True,
    metavar="NAME,...",
    help="Who is compared, ours first: structure, structure+coverage, raw, bytes, bytes+dict, "
    "hypothesis, zzuf (default: structure).",
)
@click.option("--trials", type=number_within(1, 1000), default="1", metavar="N",
              help="Trials of each fuzzer (default: 1; ten for a comparison).")  # fmt: skip
@click.option("--time", "seconds", type=duration_s, metavar="TIME",
              help="Budget of a trial (default: 60s, if there is no --execs).")  # fmt: skip
@click.option("--execs", type=number_within(1, 10**12), metavar="N",
              help="Budget of a trial's worker in executions.")  # fmt: skip
@click.option("--workers", type=number_within(1, WORKERS_MAX), default="1", metavar="N",
              help="Processes of one trial, which share a corpus (default: 1).")  # fmt: skip
@click.option("--jobs", type=number_within(1, WORKERS_MAX), metavar="N",
              help="Trials at once (default: cores / workers).")  # fmt: skip
@click.option("--seed", type=number_within(0, (1 << SEED_BITS) - 1), default="1", metavar="N",
              help="Seed of all randomness (default: 1).")  # fmt: skip
@click.option("--until-all/--whole-budget", default=True,
              help="A trial ends when every bug is detected, or when its time is up.")  # fmt: skip
@click.option("--load-timeout", type=duration_s, default="200ms", metavar="TIME",
              help="CPU time after which a load counts as a hang (default: 200ms).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Keep results here; trials that are there are not run again.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE",
              help="Draw survival curves: .png, .svg or .pdf.")  # fmt: skip
@click.option("--report", "report_only", is_flag=True, help="Run nothing; show what is in --out.")
@click.option("--list", "list_only", is_flag=True, help="List the known bugs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    target: str,
    fuzzers: tuple[str, ...],
    trials: int,
    seconds: float | None,
    execs: int | None,
    workers: int,
    jobs: int | None,
    seed: int,
    until_all: bool,
    load_timeout: float,
    out: Path | None,
    picture: Path | None,
    report_only: bool,
    list_only: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """See the help text above."""
    from loadfuzz.bench.bugs.fuzzers import fuzzer_named
    from loadfuzz.bench.bugs.running import PLAN, Plan, plan_in, results_in
    from loadfuzz.pictures import check_picture

    if list_only:
        return _list(target, as_json=as_json)
    names = tuple(dict.fromkeys(
        name.strip() for many in fuzzers or ("structure",) for name in many.split(",")
    ))  # fmt: skip
    for name in names:
        fuzzer_named(name)
    if picture is not None:
        check_picture(picture)
    if report_only and out is None:
        raise UsageError("--report needs --out: the folder with the results")
    if seconds is None and execs is None:
        seconds = 60.0
    plan = Plan(
        target, names, trials, workers, jobs or max(cores() // workers, 1), seed, seconds, execs,
        until_all, load_timeout,
    )  # fmt: skip
    if out is None:
        with tempfile.TemporaryDirectory(prefix="loadfuzz-bench-") as name:
            return _compare(plan, Path(name), picture, run=True, as_json=as_json)
    if report_only:
        kept = plan_in(out)
        if kept is None:
            raise UsageError(f"{out} is no folder of results: it has no {PLAN}")
        there = tuple(dict.fromkeys(result.fuzzer for result in results_in(out)))
        shown = tuple(dict.fromkeys((*kept.fuzzers, *there)))
        for name in names if fuzzers else ():
            if name not in there:
                raise UsageError(
                    f"{out} has no trial of {name}; it has {', '.join(there) or 'none'}"
                )
        kept = replace(kept, fuzzers=names if fuzzers else shown)
        return _compare(kept, out, picture, run=False, as_json=as_json)
    _make_folder(out)
    return _compare(plan, out, picture, run=True, as_json=as_json)


def _make_folder(out: Path) -> None:
    """The folder for results.

    Raises:
        UsageError: it cannot be made, or holds something else.
    """
    from loadfuzz.bench.bugs.running import PLAN

    try:
        out.mkdir(parents=True, exist_ok=True)
        strange = not (out / PLAN).exists() and next(out.iterdir(), None) is not None
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; name a new folder") from error
    if strange:
        raise UsageError(f"{out} holds other files, and no {PLAN}; name a new folder")


def _first(error: BaseException) -> BaseException:
    """The first error of a tree of them: one trial failed, and the others were ended."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _list(target: str, *, as_json: bool) -> int:
    from rich.console import Console

    from loadfuzz import codec
    from loadfuzz.bench.bugs.tables import print_manifest

    rows = _rows(target)
    if as_json:
        print(codec.encode({"bugs": rows}).decode())
    else:
        print_manifest(rows, Console(highlight=False))
    return ExitCode.CLEAN


def _rows(target: str):  # type: ignore[no-untyped-def]  # rows would import the loader
    from loadfuzz.bench.truth import KnowsBugs
    from loadfuzz.plugins import load_target

    found = load_target(target)
    if not isinstance(found, KnowsBugs):
        raise UsageError(f"target {target!r} does not know its bugs; try planted")
    return tuple(found.bug_rows())


def _compare(plan: "Plan", out: Path, picture: Path | None, *, run: bool, as_json: bool) -> int:
    from rich.console import Console

    from loadfuzz import codec
    from loadfuzz.bench.bugs.comparison import compare
    from loadfuzz.bench.bugs.picture import draw
    from loadfuzz.bench.bugs.running import results_in, run_plan
    from loadfuzz.bench.bugs.tables import print_comparison
    from loadfuzz.bench.bugs.trial import TrialResult

    rows = _rows(plan.target)
    told = Console(stderr=True, highlight=False)
    interrupted = False
    if run:
        total = plan.trials * len(plan.fuzzers)

        def progress(name: str, number: int, detected: int) -> None:
            if detected % 8 == 0:
                told.print(f"{name} trial {number + 1}: {detected} of {len(rows)} detected")

        def done(result: TrialResult) -> None:
            ended = len(results_in(out))
            told.print(
                f"{result.fuzzer} trial {result.number + 1} ended after {result.seconds:.0f} s: "
                f"{result.triggered} triggered, {result.detected} detected, "
                f"{result.executions:,} executions ({ended} of {total} trials)"
            )

        try:
            asyncio.run(run_plan(plan, out, progress, done))
        except KeyboardInterrupt:
            interrupted = True
        except BaseExceptionGroup as group:
            raise _first(group) from group
    results = results_in(out)
    if not results:
        print("no trial has ended", file=sys.stderr)
        return ExitCode.INTERRUPTED if interrupted else ExitCode.MACHINERY
    order = plan.fuzzers
    budget_s = plan.seconds or max(result.seconds for result in results)
    comparison = compare(rows, results, order, budget_s)
    if as_json:
        value = {
            "results": comparison.figures(), "rows": comparison.rows,
            "fuzzers": comparison.fuzzers, "contests": comparison.contests,
            "budget_s": budget_s,
        }  # fmt: skip
        print(codec.encode(value).decode())
    else:
        print_comparison(comparison, Console(highlight=False))
    if picture is not None:
        draw(results, order, budget_s, picture)
        told.print(f"survival curves are in {picture}")
    return ExitCode.INTERRUPTED if interrupted else ExitCode.CLEAN
