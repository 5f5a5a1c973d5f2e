"""Runs trials in child processes, some at a time, and keeps each as it ends."""

import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.bench.bugs.fuzzers import fuzzer_named
from loadfuzz.bench.bugs.trial import TrialRequest, TrialResult, WorkerResult, trial_of
from loadfuzz.bench.truth import KnowsBugs
from loadfuzz.children import spawn
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.plugins import load_target
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, write_atomic

PLAN: Final = "plan.json"
"""Says how the trials of a folder are run."""
GRACE_S: Final = 60.0
"""How much longer than its budget a trial may take: imports, and a last slow load."""
UNBOUNDED_S: Final = 24 * 3600.0
"""Longest trial with a budget in executions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole comparison.

    Attributes:
        target: name of the target with known bugs.
        fuzzers: who is compared, ours first.
        trials: of each.
        workers: processes of one trial.
        jobs: trials at once.
        seed: of all randomness.
        seconds: budget of one trial, ``None`` for none.
        executions: budget of one worker in executions, ``None`` for none.
        until_all: a trial ends when every bug is detected.
        load_timeout_s: CPU seconds after which a load counts as a hang.
    """

    target: str
    fuzzers: tuple[str, ...]
    trials: int
    workers: int
    jobs: int
    seed: int
    seconds: float | None
    executions: int | None
    until_all: bool
    load_timeout_s: float


Told = Callable[[str, int, int], None]
"""Hears fuzzer, trial and how many bugs it has detected by now."""


async def run_plan(plan: Plan, out: Path, told: Told, done: Callable[[TrialResult], None]) -> None:
    """Run every trial that is not in ``out`` yet.

    Args:
        plan: what to run.
        out: folder; a trial's result is there as ``FUZZER-NUMBER.json`` when it has ended.
        told: hears of progress.
        done: hears each result.

    Raises:
        InfraError: a trial failed by itself.
        UsageError: ``out`` holds trials of another kind.
    """
    for name in plan.fuzzers:
        fuzzer_named(name)
    keep_plan(plan, out)
    target = load_target(plan.target)
    if not isinstance(target, KnowsBugs):
        raise UsageError(f"target {plan.target!r} does not know its bugs; try planted")
    bugs = len(target.bug_rows())
    packages = tuple(target.instrument)
    seeds = [seed.stream for seed in target.seeds()]
    # In turns, so that an interrupted comparison has about as many trials of each.
    waiting = [
        (name, number)
        for number in range(plan.trials)
        for name in plan.fuzzers
        if not result_path(out, name, number).exists()
    ]
    waiting.reverse()

    async def work() -> None:
        while waiting:
            name, number = waiting.pop()
            result = await _trial(plan, name, number, out, packages, seeds, bugs, told)
            write_atomic(result_path(out, name, number), codec.encode_pretty(result))
            done(result)

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.jobs):
            group.create_task(work())


def keep_plan(plan: Plan, out: Path) -> None:
    """Write to ``out`` how its trials are run, or see that it says the same.

    Raises:
        UsageError: what is there was run otherwise, so that it compares with nothing.
    """
    kept = plan_in(out)
    if kept is None:
        write_atomic(out / PLAN, codec.encode_pretty(plan))
        return
    # More trials and further fuzzers are welcome, however many at once.
    now = replace(plan, fuzzers=kept.fuzzers, trials=kept.trials, jobs=kept.jobs)
    differing = [
        f"{item.name} {getattr(kept, item.name)!r}, not {getattr(now, item.name)!r}"
        for item in fields(Plan)
        if getattr(kept, item.name) != getattr(now, item.name)
    ]
    if differing:
        raise UsageError(
            f"the trials in {out} were run with {'; '.join(differing)}; "
            "say the same, or choose another --out"
        )


def plan_in(out: Path) -> Plan | None:
    """How the trials in a folder were run; ``None`` where there are none yet.

    Raises:
        InfraError: that cannot be read.
    """
    try:
        return codec.decode((out / PLAN).read_bytes(), Plan)
    except FileNotFoundError:
        return None
    except (OSError, codec.DamagedError) as error:
        raise InfraError(f"{out / PLAN} holds no plan: {error}; remove the folder") from error


def result_path(out: Path, fuzzer: str, number: int) -> Path:
    """Where the result of a trial is."""
    return out / f"{fuzzer}-{number}.json"


def results_in(out: Path) -> list[TrialResult]:
    """Every result in a folder, by fuzzer and number.

    Raises:
        InfraError: one of them cannot be read.
    """
    found = []
    for path in sorted(out.glob("*-*.json")):
        try:
            found.append(codec.decode(path.read_bytes(), TrialResult))
        except (OSError, codec.DamagedError) as error:
            raise InfraError(f"{path} holds no trial: {error}; remove it, or the folder") from error
    return sorted(found, key=lambda result: (result.fuzzer, result.number))


async def _trial(
    plan: Plan,
    name: str,
    number: int,
    out: Path,
    packages: tuple[str, ...],
    seeds: Sequence[bytes],
    bugs: int,
    told: Told,
) -> TrialResult:
    folder = out / "running" / f"{name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "corpus").mkdir(parents=True)
    corpus = Corpus(folder / "corpus")
    for stream in seeds:
        corpus.add(stream)
    rng = Rng(plan.seed).child(f"{name}/{number}")
    first = TrialRequest(
        plan.target, name, 0, 0, plan.seconds, plan.executions, plan.until_all, str(folder),
        plan.load_timeout_s, packages,
    )  # fmt: skip
    requests = [
        replace(first, worker=worker, seed=rng.child(f"worker {worker}").seed >> 1)
        for worker in range(plan.workers)
    ]
    detected: set[str] = set()
    complete = asyncio.Event()

    def more(names: Sequence[str]) -> None:
        if not detected.issuperset(names):
            detected.update(names)
            told(name, number, len(detected))
            if plan.until_all and len(detected) == bugs:
                complete.set()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_worker(request, more, complete)) for request in requests]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return trial_of(name, number, rng.seed, [task.result() for task in tasks])


async def _worker(
    request: TrialRequest, told: Callable[[Sequence[str]], None], complete: asyncio.Event
) -> WorkerResult:
    """Run one worker to its end, or until all workers together have every bug."""
    path = Path(request.out) / f"request-{request.worker}.json"
    path.write_bytes(codec.encode(request))
    found: list[WorkerResult] = []

    def line(data: bytes) -> None:
        if data.startswith(b'{"detected"'):
            told(codec.decode(data, dict[str, list[str]])["detected"])
        elif data.startswith(b"{"):
            found.append(codec.decode(data, WorkerResult))

    deadline_s = (request.seconds or UNBOUNDED_S) + GRACE_S
    command = [sys.executable, "-P", "-m", "loadfuzz.bench.bugs.worker", str(path)]
    async with spawn(command, on_line=line) as child, asyncio.TaskGroup() as group:

        async def stop() -> None:
            await complete.wait()
            await child.stop(GRACE_S)

        stopping = group.create_task(stop())
        try:
            async with asyncio.timeout(deadline_s):
                ended = await child.wait()
        except TimeoutError as error:
            raise InfraError(
                f"a trial of {request.fuzzer} did not end in {deadline_s:.0f} s"
            ) from error
        finally:
            stopping.cancel()
    if not found:
        raise InfraError(
            f"a trial of {request.fuzzer} failed ({ended}): {ended.stderr.strip()[-600:]}"
        )
    return found[-1]
