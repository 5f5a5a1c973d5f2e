"""Sweeps some places: ``python -m loadfuzz.sweeps.worker REQUEST``.  One line per job."""

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.abc import Executor, RemoteTarget, Target
from loadfuzz.channel import Channel
from loadfuzz.engines.judging import alarm_of
from loadfuzz.errors import LoadfuzzError, UsageError
from loadfuzz.execution import Execution, ExitKind, Outcome
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import SUSPICION_SHARE, Watchdog
from loadfuzz.faults.kinds import Expectation, FaultKind
from loadfuzz.faults.words import describe
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.oracles import UNDER_FAULTS
from loadfuzz.oracles.faults import FAULTS, must_be_noticed
from loadfuzz.plugins import load_any_target
from loadfuzz.sweeps.cells import LETTERS, Answer, Broken, Job, Request
from loadfuzz.sweeps.places import ALIASES, OTHER_STREAMS, input_at, stream_under, sweepable
from loadfuzz.triage.naming import violation_of
from savevm.document import Document

BEFORE_MAX: Final = 256
"""Loads before a failure that are kept with it, where a fresh loader does not do it."""
BROKEN_MAX: Final = 3
"""Wrong verdicts of one signature and job that are told in full."""
SIGNATURES_MAX: Final = 100
"""Signatures of one job that are told; more are one that names each alarm otherwise."""


class _Wrong:
    """The wrong verdicts of one job."""

    def __init__(self) -> None:
        self.told: list[Broken] = []
        self._times: dict[str, int] = {}

    def wants(self, violation: Violation) -> bool:
        """Whether one like this is to be told in full; it counts as told then."""
        signature = violation.signature
        times = self._times.get(signature, 0)
        if times >= BROKEN_MAX or (not times and len(self._times) >= SIGNATURES_MAX):
            return False
        self._times[signature] = times + 1
        return True


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()
    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    try:
        target = load_any_target(request.target)
        if isinstance(target, RemoteTarget):
            asyncio.run(_sweep_remote(request, target, channel))
        else:
            _sweep_here(request, target, channel)
    except LoadfuzzError as error:
        answer = Answer(failure=str(error), usage=isinstance(error, UsageError))
        channel.send(codec.encode(answer) + b"\n")
    return 0


def _sweep_here(request: Request, target: Target, channel: Channel) -> None:
    """In this process.

    Raises:
        UsageError: that fault cannot be done to this loader.
        InfraError: there is no working loader.
    """
    with Watchdog(request.load_timeout_s / SUSPICION_SHARE) as watchdog:
        executor = InProcessExecutor(target, watchdog)
        _check(request, executor)
        for job in request.jobs:
            answer = _job_here(request, job, executor)
            channel.send(codec.encode(answer) + b"\n")


def _check(request: Request, executor: InProcessExecutor) -> None:
    possible = sweepable(executor.layers)
    if request.kind not in possible:
        names = [*possible, *(alias for alias, kind in ALIASES.items() if kind in possible)]
        raise UsageError(
            f"{request.kind} cannot be swept over the offsets of a stream on {request.target}: "
            + (f"it takes {', '.join(names)}" if names else "its loader takes bytes only")
        )


def _job_here(request: Request, job: Job, executor: InProcessExecutor) -> Answer:
    stream = request.streams[job.seed]
    clean = executor.execute(Input(stream), trace=False)
    execution = clean.execution
    text = execution.refusal.text if execution.refusal is not None else ""
    outcome = Outcome(execution.kind, text, clean.digest_after)
    letters: list[str] = []
    wrong = _Wrong()
    struck = 0
    for offset in job.offsets:
        item = input_at(stream, request.kind, offset, request.amount)
        trial = executor.execute(item, trace=False)
        if trial.execution.kind is ExitKind.TIMED_OUT:
            executor.allow(SUSPICION_SHARE)
            try:
                trial = executor.execute(item, trace=False)
            finally:
                executor.allow(1)
        trial.know(outcome)
        struck += bool(trial.struck())
        violation = _judged(trial)
        letter = LETTERS[trial.execution.kind]
        letters.append(letter if violation is None else letter.lower())
        if violation is not None and wrong.wants(violation):
            words = tuple(describe(item.faults, trial.document()))
            wrong.told.append(Broken(offset, violation, trial.execution, words))
    return Answer(job, "".join(letters), struck, tuple(wrong.told))


def _judged(trial: LoadTrial) -> Violation | None:
    for oracle in UNDER_FAULTS:
        try:
            violation = oracle.judge(trial)
        except SubjectError as error:
            violation = alarm_of(oracle, error)
        if violation is not None:
            return violation
    return None


async def _sweep_remote(request: Request, target: RemoteTarget, channel: Channel) -> None:
    """Where the loader has a process of its own: each fault is another stream.

    Raises:
        UsageError: that fault is no other stream, or the loader cannot be started so.
        InfraError: something of ours failed.
    """
    if request.kind not in OTHER_STREAMS:
        names = [*sorted(OTHER_STREAMS), *ALIASES]
        raise UsageError(
            f"{request.kind} cannot be done to {request.target}, which is given whole streams; it "
            f"takes {', '.join(names)}"
        )
    folder = Path(request.folder)
    async with target.executor(folder, request.load_timeout_s, explain=False) as executor:
        for job in request.jobs:
            answer = await _job_remote(request, job, target, executor)
            channel.send(codec.encode(answer) + b"\n")


async def _job_remote(
    request: Request, job: Job, target: RemoteTarget, executor: Executor
) -> Answer:
    stream = request.streams[job.seed]
    letters: list[str] = []
    wrong = _Wrong()
    # What this job has given the process that runs now.
    before: deque[tuple[int, int]] = deque(maxlen=BEFORE_MAX)
    generation = executor.generation
    for offset in job.offsets:
        item = input_at(stream, request.kind, offset, request.amount)
        execution = await executor.execute(stream_under(item))
        if executor.generation != generation:
            before.clear()
        history = tuple(before)
        violation = _judged_remote(target, item, execution)
        if violation is None:
            if execution.kind.ends_process:
                await executor.renew()
        else:
            # One with a memory may have been prepared: a place is what it does to a fresh one.
            await executor.renew()
            alone = await executor.execute(stream_under(item))
            if alone.kind.ends_process:
                await executor.renew()
            found = _judged_remote(target, item, alone)
            again = found is not None and found.signature == violation.signature
            if wrong.wants(violation):
                words = _words(target, item, target.parse(stream))
                wrong.told.append(
                    Broken(offset, violation, execution, words, (int(again), 1),
                           () if again else history)
                )  # fmt: skip
            if not again:
                execution = alone
        letter = LETTERS[execution.kind]
        letters.append(letter if violation is None else letter.lower())
        if executor.generation != generation:
            generation = executor.generation
            before.clear()
        before.append((job.seed, offset))
    return Answer(job, "".join(letters), len(job.offsets), tuple(wrong.told))


def _words(target: RemoteTarget, item: Input, document: Document) -> tuple[str, ...]:
    (fault,) = item.faults.faults
    if fault.kind is FaultKind.CLOSE and target.stateful:
        return (f"the stream ends after {fault.place.number} bytes, and zeros follow",)
    return tuple(describe(item.faults, document))


def _judged_remote(target: RemoteTarget, item: Input, execution: Execution) -> Violation | None:
    (fault,) = item.faults.faults
    if execution.kind in (ExitKind.CRASHED, ExitKind.TIMED_OUT):
        section = target.parse(item.stream).section_at(fault.place.number)
        after = f"{fault.kind} in {section.path}" if section is not None else str(fault.kind)
        return violation_of(execution, None, after)
    refusable = fault.expectation is Expectation.MUST_REJECT
    # One with a memory reads from a disk, whose rest reads as zeros: nothing ends there.
    if execution.kind is not ExitKind.ACCEPTED or not refusable or target.stateful:
        return None
    document = target.parse(item.stream)
    if fault.kind is not FaultKind.CLOSE or not must_be_noticed(fault, document):
        return None
    return Violation(
        FAULTS.name, f"accepted, although the stream ends after {fault.place.number} bytes",
        "a refusal", "accepted", "close",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
