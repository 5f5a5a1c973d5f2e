"""What a worker does about the failures of a loader in a process of its own.

Theory of operation.  A failure that says by itself which it is, and is known, costs a new
process and no more.  Any other is traced in processes set apart for it
(:mod:`loadfuzz.triage`), for at most a share of the worker's time, so that a loader that
dies all the time is still fuzzed; those that must wait are traced when there is time again.
What a failure takes is then blamed, and drawn rarely.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from loadfuzz.abc import Executor, RemoteTarget
from loadfuzz.bridge import wait
from loadfuzz.campaign.batch import Batch
from loadfuzz.clock import Clock
from loadfuzz.engines.account import worker_folder
from loadfuzz.engines.blame import Blame, fields_of
from loadfuzz.engines.judging import SIGNATURES_MAX, Emit, WriteFinding
from loadfuzz.engines.lineage import Lineage
from loadfuzz.errors import InfraError
from loadfuzz.events import FindingAnnounced, FindingRepeated
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.executors.watchdog import SUSPICION_SHARE
from loadfuzz.findings import Earlier, Finding, folder_name
from loadfuzz.inputs import Input, digest_of
from loadfuzz.mutation import Mutation
from loadfuzz.storage import explain
from loadfuzz.triage.changes import changes, fewest
from loadfuzz.triage.naming import after_changes, violation_of
from loadfuzz.triage.sequences import Cause, Tracer
from loadfuzz.triage.symptom import Symptom, symptom_of
from savevm.document import Document

TRACE_SHARE: Final = 4
"""Tracing failures takes one in so many of the worker's seconds, once it had its first ones."""

TRACE_FIRST_S: Final = 30.0
"""Seconds of tracing that a worker has to begin with."""

TRACE_MAX_S: Final = 60.0
"""Longest tracing of one failure."""

TRACE_MIN_S: Final = 3.0
"""With less time left than this none is begun: starting two processes takes a part of it."""

WAITING_MAX: Final = 16
"""Failures that wait to be traced; further ones are counted, and come again."""

STARVED_MAX: Final = 512
"""Inputs that took all memory of which is found out what was changed; that takes a parse."""

STARVED_CHANGES_MAX: Final = 2
"""With more changes than this none of them is blamed: most would be innocent."""

UNTOLD_MAX: Final = 3
"""Kinds of silent failures without a known cause that are told apart by what was changed last;
any more are most likely one and the same."""

RAW_MAX: Final = 16
"""Streams kept of a failure that could not be traced: its cause is mostly among the last few,
and each may be half a MiB."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A process that is no good any more.

    Attributes:
        history: what was loaded into it, the stream that failed being the last.
        execution: how that ended.
        closely: it was looked at closely.
        lineage: of that stream.
        executions: of the worker until then.
    """

    history: tuple[bytes, ...]
    execution: Execution
    closely: bool
    lineage: Lineage
    executions: int


class Failures:
    """All of one worker.

    Args:
        batch: of the worker.
        target: what is fuzzed.
        stack: closes the processes that failures are traced in.
        blame: hears what they take.
        emit: hears of findings.
        write: keeps a finding.
        clock: for budgets in seconds.
        interrupted: asked before each run of a tracing whether it should end.
        fault: hears of trouble of our own.

    Attributes:
        seeds: streams that the loader accepts; to be set before the first failure.
        findings: signatures that were announced, in order.
    """

    def __init__(
        self,
        batch: Batch,
        target: RemoteTarget,
        stack: AsyncExitStack,
        blame: Blame,
        emit: Emit,
        write: WriteFinding,
        clock: Clock,
        interrupted: Callable[[], bool],
        fault: Callable[[str, BaseException], None],
    ) -> None:
        self._batch = batch
        self._target = target
        self._stack = stack
        self._blame = blame
        self._emit = emit
        self._write = write
        self._clock = clock
        self._start_s = clock.now_s()
        self._interrupted = interrupted
        self._fault = fault
        self._known: dict[Symptom, str] = {}
        self._looks: dict[str, Symptom] = {}
        self._culprits: dict[str, frozenset[str]] = {}
        self._starved = 0
        self._trees: list[Document] = []
        self._times: Counter[str] = Counter()
        self._waiting: deque[Failure] = deque()
        self._untraced = 0
        self._untold: set[str] = set()
        self._tracer: Tracer | None = None
        self._judge: Executor | None = None
        self._traced_s = 0.0
        self.seeds: Sequence[bytes] = ()
        self.findings: list[str] = []

    def keep_waiting(self) -> None:
        """Keep those that wait as they are, since there is no more time; a load that may only
        have been slow is counted.

        Raises:
            InfraError: a finding cannot be written.
        """
        while self._waiting:
            failure = self._waiting.popleft()
            signature = self._signature_of(failure, self._touched(failure))
            if failure.execution.kind is ExitKind.TIMED_OUT:
                self._untraced += 1
            elif signature is not None:
                self._convict(failure, signature)
                self._repeat(signature)
            else:
                self._keep(failure, None)

    @property
    def left(self) -> int:
        """Failures that were neither traced nor kept."""
        return len(self._waiting) + self._untraced

    def handle(self, failure: Failure) -> None:
        """Count it, trace it now, or have it wait.

        Raises:
            InfraError: a finding cannot be written.
        """
        touched = self._touched(failure)
        if not touched:
            self._blame.died()
        signature = self._signature_of(failure, touched)
        if signature is not None:
            self._convict(failure, signature)
            self._repeat(signature)
        elif self._may_trace() and self._seconds_left() >= TRACE_MIN_S:
            self._trace(failure)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append(failure)
        else:
            self._untraced += 1

    def starved(self, stream: bytes) -> None:
        """An input took all memory: no finding, but each costs a process, and in a long run they
        were half of all time."""
        self._blame.died()
        if self._starved >= STARVED_MAX:
            return
        self._starved += 1
        try:
            if not self._trees:
                self._trees = [self._target.parse(seed) for seed in self.seeds]
            seed, changes = fewest(self._trees, self._target.parse(stream))
        except Exception as error:
            self._fault("looking at what took all memory", error)
            return
        if len(changes) <= STARVED_CHANGES_MAX:
            self._blame.blame(seed.to_bytes(), changes, ExitKind.OUT_OF_MEMORY)

    def trace_waiting(self) -> None:
        """Trace one that waits, if there is time for it.

        Raises:
            InfraError: a finding cannot be written.
        """
        if self._waiting and self._may_trace() and self._seconds_left() >= TRACE_MIN_S:
            failure = self._waiting.popleft()
            signature = self._signature_of(failure, self._touched(failure))
            if signature is not None:
                self._convict(failure, signature)
                self._repeat(signature)
            else:
                self._trace(failure)

    def _touched(self, failure: Failure) -> frozenset[str]:
        return frozenset().union(*map(self._blame.touched, failure.history[-2:]))

    def _signature_of(self, failure: Failure, touched: frozenset[str]) -> str | None:
        """The signature of a failure that is known."""
        symptom = symptom_of(failure.execution)
        if not symptom.telling:
            # It may be whatever its fields were blamed for and looks the same.
            return min((one for one in touched if self._looks.get(one) == symptom), default=None)
        signature = self._known.get(symptom)
        if signature is None:
            # Another worker may have found it meanwhile, or an earlier run.
            told = violation_of(failure.execution, None).signature
            if told in self._batch.ignore or self._place(told).exists():
                signature = self._known[symptom] = told
        return signature

    def _convict(self, failure: Failure, signature: str) -> None:
        """Have it counted where it came from, where that is known."""
        culprits = self._culprits.get(signature)
        if culprits:
            # A closer look at a stream was not counted for what was changed in it.
            counted = () if failure.closely else failure.lineage.mutations
            self._blame.convict(counted, culprits, failure.execution.kind)

    def _before(self, failure: Failure) -> str:
        """What happened before a failure, in a word or two; "" where too many were told apart
        by that."""
        parent = failure.lineage.parent
        changed: Sequence[Mutation] = ()
        if parent is not None:
            try:
                parse = self._target.parse
                changed = changes(parse(parent), parse(failure.history[-1]))
            except Exception as error:
                self._fault("looking at what was changed last", error)
        words = after_changes([change.path for change in changed])
        if words not in self._untold and len(self._untold) >= UNTOLD_MAX:
            return ""
        self._untold.add(words)
        return words

    def _place(self, signature: str) -> Path:
        return Path(self._batch.out) / "findings" / folder_name(signature)

    def _repeat(self, signature: str) -> None:
        times = self._times[signature] = self._times[signature] + 1
        if times & (times - 1) == 0:
            self._emit(FindingRepeated(self._batch.worker, signature, times))

    def _may_trace(self) -> bool:
        elapsed_s = self._clock.now_s() - self._start_s
        return self._traced_s < TRACE_FIRST_S + elapsed_s / TRACE_SHARE

    def _seconds_left(self) -> float:
        if self._batch.seconds is None:
            return TRACE_MAX_S
        return max(self._start_s + self._batch.seconds - self._clock.now_s(), 0.0)

    def _trace(self, failure: Failure) -> None:
        """Find out what it takes, and keep it."""
        start_s = self._clock.now_s()
        cause = None
        try:
            cause = wait(self._traced(failure, min(TRACE_MAX_S, self._seconds_left())))
        except Exception as error:
            # Whatever became of the tracing, the failure is kept as it is.
            self._fault("tracing a failure", error)
        finally:
            self._traced_s += self._clock.now_s() - start_s
        self._keep(failure, cause)

    async def _traced(self, failure: Failure, seconds: float) -> Cause | None:
        if self._tracer is None:
            executor = await self._stack.enter_async_context(
                self._target.executor(
                    self._folder("tracing"), suspicion_s(self._batch, self._target), explain=False
                )
            )
            self._tracer = Tracer(
                self._target, executor, self.seeds, self._clock, self._interrupted
            )
        trace = partial(
            self._tracer.trace, failure.history, failure.execution, closely=failure.closely,
            seconds=seconds, likely=fields_of(failure.lineage.mutations),
        )  # fmt: skip
        if failure.execution.kind is not ExitKind.TIMED_OUT:
            return await trace()
        # Whether it ends after all is for somebody with more patience.
        if self._judge is None:
            self._judge = await self._stack.enter_async_context(
                self._target.executor(self._folder("judging"), self._batch.load_timeout_s)
            )
        return await trace(judge=self._judge)

    def _folder(self, name: str) -> Path:
        folder = worker_folder(self._batch) / name
        folder.mkdir(exist_ok=True)
        return folder

    def _keep(self, failure: Failure, cause: Cause | None) -> None:
        """Write a finding and announce it, unless it is known by now."""
        if failure.execution.kind is ExitKind.TIMED_OUT:
            again, tries = (0, 0) if cause is None else cause.reliability
            if not again:
                # With more patience it ended: it was only slow. Or nobody could say.
                self._untraced += not tries
                return
        after = self._before(failure) if cause is None else ""
        finding = finding_of(self._batch, failure, cause, after)
        violation, signature = finding.violation, finding.signature
        symptom = symptom_of(failure.execution)
        self._looks.setdefault(signature, symptom)
        if cause is not None:
            for step in cause.steps:
                self._blame.blame(step.seed, step.changes, signature)
            if len(self._culprits) < SIGNATURES_MAX:
                self._culprits.setdefault(signature, frozenset(
                    field for step in cause.steps for field in fields_of(step.changes)
                ))  # fmt: skip
            self._convict(failure, signature)
        if signature in self._batch.ignore or signature in self._times:
            self._known.setdefault(symptom, signature)
            self._repeat(signature)
            return
        if len(self._times) >= SIGNATURES_MAX:
            self._untraced += 1
            self._fault("keeping findings", InfraError(
                f"this worker has {SIGNATURES_MAX}, and further ones are not kept; repair what the "
                "loader does, or name known ones in `ignore`"
            ))  # fmt: skip
            return
        try:
            folder = self._write(Path(self._batch.out), finding)
        except OSError as error:
            raise explain(error, f"writing a finding to {self._batch.out}") from error
        self._known.setdefault(symptom, signature)
        self._times[signature] = 1
        if folder is None:
            self._emit(FindingRepeated(self._batch.worker, signature, 1))
            return
        self.findings.append(signature)
        self._emit(FindingAnnounced(
            self._batch.worker, signature, violation.oracle, violation.title, violation.path,
            folder, failure.executions, finding.reliability,
        ))  # fmt: skip


def finding_of(batch: Batch, failure: Failure, cause: Cause | None, after: str = "") -> Finding:
    """The finding that a failure is; with the last streams as they were where what it takes
    is not known.

    Args:
        batch: of the worker.
        failure: what happened.
        cause: what it takes.
        after: what happened before, where the cause is not known.
    """
    if cause is None:
        *before, stream = failure.history[-RAW_MAX:]
        parent = failure.lineage.parent or b""
        return Finding(
            batch.target, Input(stream, before=tuple(before)),
            violation_of(failure.execution, None, after), failure.execution,
            parent=digest_of(parent) if parent else "", parent_stream=parent,
            mutations=failure.lineage.mutations, seed=batch.seed, worker=batch.worker,
            executions=failure.executions, load_timeout_s=batch.load_timeout_s,
            earlier=tuple(Earlier() for _ in before),
        )  # fmt: skip
    *earlier, step = cause.steps
    return Finding(
        batch.target,
        Input(step.stream, before=tuple(item.stream for item in earlier)),
        violation_of(cause.execution, cause), cause.execution,
        parent=digest_of(step.seed), parent_stream=step.seed, mutations=step.changes,
        seed=batch.seed, worker=batch.worker, executions=failure.executions,
        reliability=cause.reliability, load_timeout_s=batch.load_timeout_s,
        earlier=tuple(Earlier(item.seed, item.changes) for item in earlier),
    )  # fmt: skip


def suspicion_s(batch: Batch, target: RemoteTarget) -> float:
    """CPU seconds after which a load is taken for a hang until somebody confirms it: all of
    them where starting a process is part of each."""
    return batch.load_timeout_s / (SUSPICION_SHARE if target.stateful else 1)
