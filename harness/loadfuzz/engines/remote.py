"""A worker's session with a loader in a process of its own.

Theory of operation.  The loader may die, hang, and remember.  What was loaded into the
present process is kept in a ring; when it fails, the ring is what may have caused it.
What becomes of it is for :mod:`loadfuzz.engines.failures`.  Every so many loads a good stream has
to be accepted, or what was loaded since has done harm.

What shows something new is loaded once more and looked at closely, and so is a sample.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from loadfuzz import codec
from loadfuzz.abc import Executor, HasRemarks, RemoteTarget
from loadfuzz.bridge import wait
from loadfuzz.campaign.batch import Batch, BatchResult
from loadfuzz.clock import Clock
from loadfuzz.engines.account import PROGRESS_S, Account, worker_folder
from loadfuzz.engines.blame import MATRIX_FILE, Blame, Matrix
from loadfuzz.engines.failures import Failure, Failures
from loadfuzz.engines.judging import Emit, WriteFinding
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.errors import InfraError
from loadfuzz.events import MachineryWarning
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.feedback.novelty import Observation
from loadfuzz.mutation import Mutation
from loadfuzz.rng import Rng
from loadfuzz.storage import explain, write_atomic
from loadfuzz.wording import count

HISTORY_MAX: Final = 132
"""Streams remembered of one process.  Damage shows one or a few loads later, nearly always."""

SANITY_EVERY: Final = 128
"""Loads between two of a good stream: some fewer than the ring holds, for a closer look and
the good stream count too, and what did harm must not be forgotten."""

CLOSE_SHARE: Final = 64
"""Of accepted streams that show nothing new, one in so many is looked at closely: that
takes some ten loads' time, so a tenth of all of it, and finds what no load alone shows."""

TRIES_MAX: Final = 2
"""Times that a stream is loaded when our machinery fails; then it is left alone."""

TROUBLES_MAX: Final = 20
"""Streams in a row about which nothing can be said, before the worker gives up; also faults
that are reported."""

_NOTHING_SEEN: Final = Observation((), (), telling=False, accepted=False)

MATRIX_EVERY: Final = 20
"""Reports between two writings of it."""


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
        self._seeds = seeds
        self._rng = rng.child("looks")
        self._matrix = Matrix(self._read_matrix(batch))
        self._blame = Blame(self._matrix, rng.child("blame"))
        self._history: deque[bytes] = deque(maxlen=HISTORY_MAX)
        self._generation = executor.generation
        self._since_sane = 0
        self._troubles = 0
        self._reports = 0
        self._fault_texts: set[str] = set()
        self._faults = 0
        self._failures = Failures(
            batch, target, stack, self._blame, emit, write, self._clock, self._interrupted,
            self.fault,
        )  # fmt: skip

    def begin(self) -> None:
        """Tell what people should know of the loader, and find out which seeds are good.

        Raises:
            InfraError: none is.
        """
        if isinstance(self._executor, HasRemarks):
            for remark in self._executor.remarks:
                self.emit(MachineryWarning(remark))
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
        self._failures.seeds = self._blame.seeds = good

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
        self._failures.trace_waiting()
        return seen

    def observe(self, stream: bytes) -> Observation:
        """See :meth:`Account.observe`."""
        execution = self._load(stream, ())
        if execution is None:
            return _NOTHING_SEEN
        if execution.kind.ends_process:
            # What was loaded before it may be to blame.
            self._ended_by(execution, NO_LINEAGE, closely=False)
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

    def end(self) -> None:
        """Keep what there was no time for, and say how much of it there is.

        Raises:
            InfraError: it cannot be written.
        """
        self._write_matrix()
        self._failures.keep_waiting()
        left = self._failures.left
        if left:
            self.emit(MachineryWarning(
                f"worker {self.batch.worker}: {count(left, 'failure')} not traced, for want of "
                "time; a longer run meets them again"
            ))  # fmt: skip

    def result(self, reason: str) -> BatchResult:
        """See :meth:`Account.result`."""
        return BatchResult(
            self.tally.executions, tuple(self.added), tuple(self._failures.findings),
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
        if execution.kind is ExitKind.OUT_OF_MEMORY:
            self._failures.starved(self._history[-1])
        else:
            history = tuple(self._history)
            self._failures.handle(
                Failure(history, execution, closely, lineage, self.tally.executions)
            )
        self._renew()

    def _renew(self) -> None:
        self._history.clear()
        self._since_sane = 0
        wait(self._executor.renew())

    def _read_matrix(self, batch: Batch) -> dict[str, dict[str, int]]:
        """The counts of the worker in whose place this one is; none if they are damaged."""
        try:
            counts = (worker_folder(batch) / MATRIX_FILE).read_bytes()
            return codec.decode(counts, dict[str, dict[str, int]])
        except (OSError, codec.DamagedError):
            return {}

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
