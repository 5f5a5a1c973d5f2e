"""Runs one input again, in a process of its own: ``python -m loadfuzz.repro.again REQUEST.json``.

Each run has a loader that was opened for it, and every oracle looks at it.  One
line per run; when the target takes the process along, what a worker leaves
behind is left here too, so that the death is the same finding as before.
"""

import asyncio
import faulthandler
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadfuzz import codec
from loadfuzz.abc import Oracle, RemoteTarget, Target
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S, Batch, Engine
from loadfuzz.channel import Channel
from loadfuzz.engines.judging import alarm_of
from loadfuzz.engines.last_input import STACK_NAME, LastInput
from loadfuzz.engines.worker import ADDRESS_SPACE_EXTRA
from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.findings import Violation
from loadfuzz.inputs import Delivery, Input
from loadfuzz.oracles import ALL, UNDER_FAULTS
from loadfuzz.plugins import load_any_target
from loadfuzz.triage.naming import violation_of
from loadfuzz.triage.sequences import run_sequence


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        target: its name.
        stream, delivery, before: the input.
        first, last: numbers of the first run and the one behind the last.
        folder: for what is left behind by a death.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        faults: what goes wrong meanwhile.
    """

    target: str
    stream: bytes
    delivery: Delivery
    first: int
    last: int
    folder: str
    load_timeout_s: float = LOAD_TIMEOUT_S
    before: tuple[bytes, ...] = ()
    faults: FaultPlan = NO_FAULTS


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to.

    Attributes:
        number: of the run.
        kind: how the load ended.
        depth: how deep it came.
        text: of the refusal or escape, "" when accepted.
        violations: what the oracles said.
        failures: oracles that failed, which says nothing about the target.
        struck: the faults of the input that did happen.
    """

    number: int
    kind: ExitKind
    depth: Depth
    text: str
    violations: tuple[Violation, ...]
    failures: tuple[str, ...] = ()
    struck: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of ours: a run, or why there can be none.

    Attributes:
        run: that was done.
        failure: why there is none.
        usage: because what was asked for makes no sense.
    """

    run: Run | None = None
    failure: str = ""
    usage: bool = False


def run_once(
    target: Target, watchdog: Watchdog, item: Input, number: int, last_input: LastInput
) -> Run:
    """Run ``item`` in a fresh loader and have it judged.

    Raises:
        InfraError: the target has no working loader.
        UsageError: the input has faults, and the loader cannot be done any to.
    """
    last_input.begin(item.stream, number)
    trial = InProcessExecutor(target, watchdog).execute(item)
    last_input.loaded()
    violations: list[Violation] = []
    failures: list[str] = []
    try:
        struck = tuple(map(str, trial.struck()))
    except SubjectError as error:
        struck = ()
        failures.append(str(error))
    for oracle in UNDER_FAULTS if item.faults else ALL:
        try:
            violation = _ask(oracle, trial)
        except Exception as error:
            failures.append(f"oracle {oracle.name}: {type(error).__name__}: {error}")
            continue
        if violation is not None:
            violations.append(violation)
    execution = trial.execution
    text = _text_of(execution)
    return Run(
        number, execution.kind, execution.depth, text, tuple(violations), tuple(failures), struck
    )


def _text_of(execution: Execution) -> str:
    if execution.refusal is not None:
        return execution.refusal.text
    if execution.escape is not None:
        return f"{execution.escape.type_name}: {execution.escape.message}"
    return ""


def _ask(oracle: Oracle, trial: LoadTrial) -> Violation | None:
    try:
        return oracle.judge(trial)
    except SubjectError as error:
        return alarm_of(oracle, error)


def run_all(request: Request, channel: Channel) -> None:
    """All runs of a request.

    Raises:
        LoadfuzzError: the target cannot be imported or opened.
    """
    item = Input(request.stream, request.delivery, request.before, request.faults)
    target = load_any_target(request.target)
    if isinstance(target, RemoteTarget):
        try:
            asyncio.run(_run_remote(request, item, target, channel))
        except UsageError as error:
            if item.faults:
                raise
            # That it cannot be started is no fault of what was typed alone.
            raise InfraError(str(error)) from error
        return
    batch = Batch(
        request.target, Engine.NATIVE, request.folder, 0, 0, None, None,
        load_timeout_s=request.load_timeout_s,
    )  # fmt: skip
    with (
        LastInput(Path(request.folder), batch) as last_input,
        _guarded(Path(request.folder)),
        Watchdog(batch.load_timeout_s) as watchdog,
    ):
        for number in range(request.first, request.last):
            run = run_once(target, watchdog, item, number, last_input)
            last_input.end()
            channel.send(codec.encode(Answer(run)) + b"\n")


async def _run_remote(
    request: Request, item: Input, target: RemoteTarget, channel: Channel
) -> None:
    """The same where the loader has a process of its own: a fresh one for each run."""
    if item.faults:
        raise UsageError(
            f"{request.target} is given whole streams: no fault can strike around them. Sweep one "
            f"that changes bytes ('loadfuzz sweep {request.target} --fault truncate'), or see "
            "'loadfuzz migrate --help'"
        )
    streams = (*item.before, item.stream)
    async with target.executor(Path(request.folder), request.load_timeout_s) as executor:
        for number in range(request.first, request.last):
            execution = await run_sequence(executor, streams, closely=True)
            if execution is None:
                text = "a stream that is loaded before it ended the process"
                run = Run(number, ExitKind.CRASHED, Depth.NOTHING, text, ())
            else:
                run = _run_of(number, execution, after=bool(item.before))
            channel.send(codec.encode(Answer(run)) + b"\n")


def _run_of(number: int, execution: Execution, *, after: bool) -> Run:
    """A run, and what can be said of a loader elsewhere by how it ended.

    Args:
        number: of the run.
        execution: of the last stream.
        after: others were loaded before; then a refusal may be their doing.
    """
    failed = execution.kind in (ExitKind.CRASHED, ExitKind.TIMED_OUT)
    violations: tuple[Violation, ...] = ()
    if failed or (after and execution.kind is ExitKind.REJECTED):
        violations = (violation_of(execution, None),)
    return Run(number, execution.kind, execution.depth, _text_of(execution), violations)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """The limits and the stack of a worker, so that what happened there happens here."""
    with (folder / "worker-0" / STACK_NAME).open("wb") as stack:
        faulthandler.enable(stack, all_threads=False)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_SPACE_EXTRA
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            faulthandler.disable()


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()
    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    try:
        run_all(request, channel)
    except LoadfuzzError as error:
        answer = Answer(failure=str(error), usage=isinstance(error, UsageError))
        channel.send(codec.encode(answer) + b"\n")
    except OSError as error:
        text = f"running again failed: {os.strerror(error.errno or 0)}; check the temporary folder"
        channel.send(codec.encode(Answer(failure=text)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
