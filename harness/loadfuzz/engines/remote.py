"""A worker's session with a loader in a process of its own.

Theory of operation.  The loader may die, hang, and remember.  What was loaded into the
present process is kept in a ring; when it fails, the ring is what may have caused it.
A failure that says by itself which it is, and is known, costs a new process and no more.
Any other is traced in processes set apart for it (:mod:`loadfuzz.triage`), for at most a
share of the worker's time, so that a loader that dies all the time is still fuzzed; those
that must wait are traced when there is time again.  Every so many loads a good stream has
to be accepted, or what was loaded since has done harm.

What shows something new is loaded once more and looked at closely, and so is a sample.
"""

from collections import Counter, deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.abc import Executor, RemoteTarget
from loadfuzz.campaign.batch import Batch, BatchResult
from loadfuzz.clock import Clock
from loadfuzz.engines.account import PROGRESS_S, Account, worker_folder
from loadfuzz.engines.blame import MATRIX_FILE, Blame, Matrix, fields_of
from loadfuzz.engines.bridge import wait
from loadfuzz.engines.judging import SIGNATURES_MAX, Emit, WriteFinding
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.errors import InfraError
from loadfuzz.events import FindingAnnounced, FindingRepeated, MachineryWarning
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.executors.watchdog import SUSPICION_SHARE
from loadfuzz.feedback.novelty import Observation
from loadfuzz.findings import Earlier, Finding
from loadfuzz.inputs import Input, digest_of
from loadfuzz.mutation import Mutation
from loadfuzz.rng import Rng
from loadfuzz.storage import explain, write_atomic
from loadfuzz.triage.naming import violation_of
from loadfuzz.triage.sequences import Cause, Tracer
from loadfuzz.triage.symptom import Symptom, symptom_of

HISTORY_MAX: Final = 128
"""Streams remembered of one process.  Damage shows one or a few loads later, nearly always."""

SANITY_EVERY: Final = 128
"""Loads between two of a good stream: no more than the ring holds, or what did harm would
be forgotten."""

CLOSE_SHARE: Final = 256
"""Of accepted streams that show nothing new, one in so many is looked at closely: that
takes a guest run of some milliseconds."""

TRACE_SHARE: Final = 4
"""Tracing failures takes one in so many of the worker's seconds, once it had its first ones."""

TRACE_FIRST_S: Final = 30.0
"""Seconds of tracing that a worker has to begin with."""

TRACE_MAX_S: Final = 60.0
"""Longest tracing of one failure."""

WAITING_MAX: Final = 16
"""Failures that wait to be traced; further ones are counted, and come again."""

TRIES_MAX: Final = 2
"""Times that a stream is loaded when our machinery fails; then it is left alone."""

TROUBLES_MAX: Final = 20
"""Streams in a row about which nothing can be said, before the worker gives up; also faults
that are reported."""

_NOTHING_SEEN: Final = Observation((), (), telling=False, accepted=False)

MATRIX_EVERY: Final = 20
"""Reports between two writings of it."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What is to be traced."""

    history: tuple[bytes, ...]
    execution: Execution
    closely: bool
    lineage: Lineage
    executions: int


class RemoteSession(Account):
    """What a worker keeps between executions.

    Args:
        batch: what it is to do.
        target: what is fuzzed.
        executor: its loader.
        stack: closes a second one, which is started when it is needed.
        seeds: streams that should be good.
        emit: hears of everything.
        write: keeps a finding.
        stopped: somebody wants the worker to end.
        rng: decides what chance decides.
        clock: for budgets in seconds.

    Attributes:
        findings: signatures that this worker announced, in order.
    """

    def __init__(
        self,
        batch: Batch,
        target: RemoteTarget,
        executor: Executor,
        stack: AsyncExitStack,
        seeds: list[bytes],
        emit: Emit,
        write: WriteFinding,
        stopped: Callable[[], bool],
        rng: Rng,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(batch, target, emit, stopped, clock)
        self._remote = target
        self._executor = executor
        self._stack = stack
        self._seeds = seeds
        self._write = write
        self._rng = rng.child("looks")
        self._matrix = Matrix()
        self._blame = Blame(self._matrix, rng.child("blame"))
        self._history: deque[bytes] = deque(maxlen=HISTORY_MAX)
        self._generation = executor.generation
        self._known: dict[Symptom, str] = {}
        self._times: Counter[str] = Counter()
        self._waiting: deque[_Failure] = deque()
        self._untraced = 0
        self._tracer: Tracer | None = None
        self._traced_s = 0.0
        self._since_sane = 0
        self._troubles = 0
        self._reports = 0
        self._fault_texts: set[str] = set()
        self._faults = 0
        self.findings: list[str] = []

    def begin(self) -> None:
        """Find out which seeds are good.

        Raises:
            InfraError: none is.
        """
        good = []
        why = "there is none"
        for seed in sorted(self._seeds, key=len):
            execution = self._load(seed, ())
            if execution is None:
                continue
            if execution.kind is ExitKind.ACCEPTED:
                good.append(seed)
                continue
            why = execution.refusal.text if execution.refusal is not None else execution.kind
            if execution.kind.ends_process:
                self._renew()
        if not good:
            raise InfraError(
                f"{self._remote.name} accepts none of the seeds ({why}); give it others with "
                "--seeds, captured from the same binary and machine"
            )
        self._seeds = good

    def run(self, stream: bytes, lineage: Lineage) -> Observation:
        """See :meth:`Account.run`."""
        execution = self._load(stream, lineage.mutations)
        if execution is None:
            return _NOTHING_SEEN
        seen = self.novelty.observe(execution)
        if seen.fresh:
            self.tally.fresh(lineage.mutations)
        if execution.kind.ends_process:
            self._ended_by(execution, lineage, closely=False)
        elif seen.fresh or (seen.accepted and self._rng.chance(1, CLOSE_SHARE)):
            seen = self._look_closely(stream, lineage, seen)
        self._stay_sane()
        self._trace_waiting()
        return seen

    def observe(self, stream: bytes) -> Observation:
        """See :meth:`Account.observe`."""
        execution = self._load(stream, ())
        if execution is None:
            return _NOTHING_SEEN
        if execution.kind.ends_process:
            self._renew()
        return self.novelty.observe(execution)

    def avoids(self, child: bytes, lineage: Lineage) -> bool:
        """See :meth:`Account.avoids`."""
        return self._blame.avoids(child, lineage.mutations)

    def fault(self, doing: str, error: BaseException) -> None:
        """See :meth:`Account.fault`."""
        self._faults += 1
        text = f"{doing} failed: {type(error).__name__}: {error}"
        if text not in self._fault_texts and len(self._fault_texts) < TROUBLES_MAX:
            self._fault_texts.add(text)
            self.emit(MachineryWarning(text))

    def report(self) -> None:
        """See :meth:`Account.report`."""
        super().report()
        self._reports += 1
        if self._reports % MATRIX_EVERY == 0:
            self._write_matrix()

    def result(self, reason: str) -> BatchResult:
        """See :meth:`Account.result`."""
        self._write_matrix()
        left = len(self._waiting) + self._untraced
        if left:
            self.emit(MachineryWarning(
                f"worker {self.batch.worker}: {left} failures were not traced, for want of time; "
                "a longer run meets them again"
            ))  # fmt: skip
        return BatchResult(
            self.tally.executions, tuple(self.added), tuple(self.findings),
            self.tally.depth_counts(), self.tally.kind_counts(), reason, self._faults,
        )  # fmt: skip

    def _load(
        self, stream: bytes, mutations: tuple[Mutation, ...], *, closely: bool = False
    ) -> Execution | None:
        """One load, counted; ``None`` when nothing can be said about the stream.

        Raises:
            InfraError: that happens all the time.
        """
        for _ in range(TRIES_MAX):
            self._history.append(stream)
            try:
                execution = wait(self._executor.execute(stream, closely=closely))
            except InfraError as error:
                if self._troubles >= TROUBLES_MAX:
                    raise
                self.fault("running the loader", error)
                self._renew()
                continue
            break
        else:
            self._troubles += 1
            return None
        if self._executor.generation != self._generation or not self._remote.stateful:
            self._generation = self._executor.generation
            self._history = deque([stream], HISTORY_MAX)
        self._troubles = 0
        self._since_sane += 1
        self.tally.count(execution)
        self._matrix.count(mutations, execution.kind)
        self._blame.loaded(mutations)
        return execution

    def _look_closely(self, stream: bytes, lineage: Lineage, seen: Observation) -> Observation:
        execution = self._load(stream, (), closely=True)
        if execution is None:
            return seen
        if execution.kind.ends_process:
            self._ended_by(execution, lineage, closely=True)
        closer = self.novelty.observe(execution)
        return replace(
            closer, fresh=(*seen.fresh, *closer.fresh), telling=seen.telling or closer.telling,
            accepted=seen.accepted and closer.accepted,
        )  # fmt: skip

    def _stay_sane(self) -> None:
        """Load a good stream, when it is time."""
        if self._since_sane < SANITY_EVERY or not self._remote.stateful:
            return
        self._since_sane = 0
        execution = self._load(self._seeds[0], ())
        if execution is not None and execution.kind is not ExitKind.ACCEPTED:
            self._ended_by(execution, NO_LINEAGE, closely=False)

    def _ended_by(self, execution: Execution, lineage: Lineage, *, closely: bool) -> None:
        """The present process is no good any more."""
        history = tuple(self._history)
        if execution.kind is not ExitKind.OUT_OF_MEMORY:
            self._blame_for(history)
            failure = _Failure(history, execution, closely, lineage, self.tally.executions)
            self._handle(failure)
        self._renew()

    def _blame_for(self, history: tuple[bytes, ...]) -> None:
        if not any(self._blame.touches(stream) for stream in history[-2:]):
            self._blame.died()

    def _handle(self, failure: _Failure) -> None:
        symptom = symptom_of(failure.execution)
        signature = self._known.get(symptom)
        if signature is not None and symptom.telling:
            self._repeat(signature)
            return
        if signature is not None and any(map(self._blame.touches, failure.history[-2:])):
            self._repeat(signature)
            return
        if self._may_trace():
            self._trace(failure)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append(failure)
        else:
            self._untraced += 1

    def _repeat(self, signature: str) -> None:
        times = self._times[signature] = self._times[signature] + 1
        if times & (times - 1) == 0:
            self.emit(FindingRepeated(self.batch.worker, signature, times))

    def _may_trace(self) -> bool:
        elapsed_s = self._clock.now_s() - self._start_s
        return self._traced_s < TRACE_FIRST_S + elapsed_s / TRACE_SHARE

    def _trace_waiting(self) -> None:
        if self._waiting and self._may_trace():
            self._handle(self._waiting.popleft())

    def _trace(self, failure: _Failure) -> None:
        """Find out what it takes, and keep it."""
        start_s = self._clock.now_s()
        seconds = TRACE_MAX_S
        if self.batch.seconds is not None:
            seconds = min(seconds, self._start_s + self.batch.seconds - start_s)
        cause = None
        try:
            cause = wait(self._traced(failure, max(seconds, 0.0)))
        except InfraError as error:
            self.fault("tracing a failure", error)
        finally:
            self._traced_s += self._clock.now_s() - start_s
        self._keep(failure, cause)

    async def _traced(self, failure: _Failure, seconds: float) -> Cause | None:
        if self._tracer is None:
            executor = await self._stack.enter_async_context(
                self._remote.executor(
                    self._folder("tracing"), suspicion_s(self.batch, self._remote), explain=False
                )
            )
            self._tracer = Tracer(
                self._remote, executor, self._seeds, self._clock, self._interrupted
            )
        trace = partial(
            self._tracer.trace, failure.history, failure.execution, closely=failure.closely,
            seconds=seconds, likely=fields_of(failure.lineage.mutations),
        )  # fmt: skip
        if failure.execution.kind is not ExitKind.TIMED_OUT:
            return await trace()
        # Whether it ends after all is for somebody with more patience.
        patient = self._remote.executor(self._folder("judging"), self.batch.load_timeout_s)
        async with patient as judge:
            return await trace(judge=judge)

    def _folder(self, name: str) -> Path:
        folder = worker_folder(self.batch) / name
        folder.mkdir(exist_ok=True)
        return folder

    def _keep(self, failure: _Failure, cause: Cause | None) -> None:
        violation = violation_of(failure.execution if cause is None else cause.execution, cause)
        signature = violation.signature
        symptom = symptom_of(failure.execution)
        if cause is not None:
            for step in cause.steps:
                self._blame.blame(step.seed, step.changes)
        hung = failure.execution.kind is ExitKind.TIMED_OUT
        if hung and (cause is None or not cause.reliability[0]):
            return  # with more patience it ended: it was only slow
        if signature in self.batch.ignore or signature in self._times:
            self._known.setdefault(symptom, signature)
            self._repeat(signature)
            return
        if len(self._times) >= SIGNATURES_MAX:
            return
        finding = self._finding(failure, cause)
        try:
            folder = self._write(Path(self.batch.out), finding)
        except OSError as error:
            raise explain(error, f"writing a finding to {self.batch.out}") from error
        self._known.setdefault(symptom, signature)
        self._times[signature] = 1
        if folder is None:
            self.emit(FindingRepeated(self.batch.worker, signature, 1))
            return
        self.findings.append(signature)
        self.emit(FindingAnnounced(
            self.batch.worker, signature, violation.oracle, violation.title, violation.path,
            folder, failure.executions, finding.reliability,
        ))  # fmt: skip

    def _finding(self, failure: _Failure, cause: Cause | None) -> Finding:
        batch = self.batch
        if cause is None:
            *before, last = failure.history
            parent = failure.lineage.parent or b""
            return Finding(
                batch.target, Input(last, before=tuple(before)),
                violation_of(failure.execution, None), failure.execution,
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

    def _renew(self) -> None:
        self._history.clear()
        self._since_sane = 0
        wait(self._executor.renew())

    def _write_matrix(self) -> None:
        path = worker_folder(self.batch) / MATRIX_FILE
        try:
            write_atomic(path, codec.encode(self._matrix.counts), durable=False)
        except OSError as error:
            raise explain(error, f"writing {path}") from error

    def _interrupted(self) -> bool:
        """Whether tracing should end; asked before each of its runs, so that whoever waits
        for us hears of us."""
        if self._clock.now_s() - self._progress_s >= PROGRESS_S:
            self._progress_s = self._clock.now_s()
            self.report()
        return self._stopped()


def suspicion_s(batch: Batch, target: RemoteTarget) -> float:
    """CPU seconds after which a load is taken for a hang until somebody confirms it: all of
    them where starting a process is part of each."""
    return batch.load_timeout_s / (SUSPICION_SHARE if target.stateful else 1)
