"""One worker's work on one input, the same under every engine.

Runs it, takes in its feedback, has it judged, counts it, and tells how it is
going.  Everything that happens once per execution happens here: the tax that a
load has to pay is this file and what it calls.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadfuzz.abc import Oracle, Target
from loadfuzz.campaign.batch import Batch, BatchResult
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.engines.judging import Emit, Judge, WriteFinding
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.looks import CloserLooks
from loadfuzz.engines.tally import Tally
from loadfuzz.events import CorpusAdded
from loadfuzz.execution import ExitKind
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.feedback.novelty import Novelty, Observation
from loadfuzz.findings import Violation
from loadfuzz.inputs import STREAM_SIZE_MAX, Input

PROGRESS_S: Final = 0.5
"""Time between two reports of totals."""

PROGRESS_EXECUTIONS: Final = 64
"""Executions between them where the budget is one of executions: there the same
seed has to give the same events, and a clock does not.  Few enough that even a
target that hangs each time is not taken for a worker that is stuck."""

CHILD_SIZE_MIN: Final = 1 << 16
"""Smallest bound on the size of children; below it mutators lack room."""


class Session:
    """What a worker keeps between executions.

    Args:
        batch: what it is to do.
        target: what is fuzzed.
        oracles: that judge.
        emit: hears of everything.
        write: keeps a finding.
        watchdog: entered for as long as the session runs.
        last_input: survives the death of this process.
        stopped: somebody wants the worker to end.
        clock: for the budget in seconds.
        heard: hears every alarm, see :class:`~loadfuzz.engines.judging.Judge`.

    Attributes:
        tally: the numbers so far.
        novelty: the feedback so far.
        documents: trees by stream.
        corpus_size: entries of the corpus, for reports.
        added: digests of the entries this worker added.

    Raises:
        InfraError: the target cannot be opened.
    """

    def __init__(
        self,
        batch: Batch,
        target: Target,
        oracles: Sequence[Oracle],
        emit: Emit,
        write: WriteFinding,
        watchdog: Watchdog,
        last_input: LastInput,
        stopped: Callable[[], bool],
        clock: Clock | None = None,
        heard: Callable[[Violation], None] | None = None,
    ) -> None:
        self.batch = batch
        self.target = target
        self.emit = emit
        self.tally = Tally()
        self.novelty = Novelty()
        self.documents = Documents(target)
        self.corpus_size = 0
        self.added: list[str] = []
        self._executor = InProcessExecutor(target, watchdog, self.documents)
        self.judge = Judge(
            batch,
            oracles,
            self.tally,
            emit,
            write,
            lambda: InProcessExecutor(target, watchdog, self.documents),
            heard,
        )
        self._pending: tuple[LoadTrial, bool, Lineage] | None = None
        self._looked = CloserLooks()
        self._last_input = last_input
        self._stopped = stopped
        self._clock = clock or SystemClock()
        self._start_s = self._progress_s = self._clock.now_s()
        self._progress_at = PROGRESS_EXECUTIONS

    def run(self, stream: bytes, lineage: Lineage) -> Observation:
        """Run one input, judge it, count it.

        Args:
            stream: the input.
            lineage: where it came from.

        Returns:
            What feedback says about it.

        Raises:
            InfraError: the target has no working loader any more.
        """
        seen = self.execute(stream, lineage)
        self.judge_pending()
        return seen

    def execute(self, stream: bytes, lineage: Lineage) -> Observation:
        """Like :meth:`run`, but leave the judging to :meth:`judge_pending`, which
        has to be called before the next input; an engine that counts coverage
        must not count what oracles do."""
        tally = self.tally
        self._last_input.begin(stream, tally.executions + 1)
        trial = self._executor.execute(Input(stream))
        if trial.execution.kind is ExitKind.TIMED_OUT:
            trial = self.judge.settle(trial)
        self._last_input.loaded()
        tally.count(trial.execution)
        seen = self.novelty.observe(trial.execution)
        if seen.fresh:
            tally.fresh(lineage.mutations)
        kind = trial.execution.kind
        worth = self._looked.worth(kind, lineage.mutations, telling=seen.telling)
        self._pending = (trial, worth, lineage)
        return seen

    def observe(self, stream: bytes) -> Observation:
        """Run an input that was judged before, for what it shows alone."""
        seen = self.execute(stream, NO_LINEAGE)
        self._pending = None
        self._last_input.end()
        return seen

    def judge_pending(self) -> None:
        """Judge what was executed last, if it was not judged yet."""
        pending = self._pending
        if pending is not None:
            self._pending = None
            trial, new, lineage = pending
            self.judge.judge(trial, new=new, lineage=lineage)
            self._last_input.end()

    def ended(self) -> str:
        """Why the worker should end now, "" while it should not; to be asked
        after every execution, since it also reports progress when that is due."""
        batch = self.batch
        done = self.tally.executions
        if batch.executions is not None:
            if done >= self._progress_at:
                self._progress_at = done + PROGRESS_EXECUTIONS
                self.report()
            if done >= batch.executions:
                return "budget"
        if batch.executions is None or batch.seconds is not None:
            now_s = self._clock.now_s()
            if batch.executions is None and now_s - self._progress_s >= PROGRESS_S:
                self._progress_s = now_s
                self.report()
            if batch.seconds is not None and now_s - self._start_s >= batch.seconds:
                return "budget"
        return "stopped" if self._stopped() else ""

    def report(self) -> None:
        """Tell the totals."""
        self.emit(self.tally.progress(self.batch.worker, self.corpus_size))

    def added_entry(
        self, digest: str, size: int, operators: tuple[str, ...], seen: Observation | None = None
    ) -> None:
        """An entry was added to the corpus."""
        self.added.append(digest)
        self.corpus_size += 1
        features: tuple[str, ...] = ()
        behaviour = ""
        if seen is not None:
            features = self.novelty.names(seen.fresh)
            behaviour = self.novelty.behaviour(seen.features)
        self.emit(CorpusAdded(
            self.batch.worker, digest, size, self.tally.executions, operators, features, behaviour
        ))  # fmt: skip

    def result(self, reason: str) -> BatchResult:
        """What it all came to."""
        return BatchResult(
            self.tally.executions,
            tuple(self.added),
            tuple(self.judge.findings),
            self.tally.depth_counts(),
            self.tally.kind_counts(),
            reason,
            self.judge.faults,
        )


def child_size_max(largest: int) -> int:
    """Bound on the size of children, for a largest seed of so many bytes."""
    return min(STREAM_SIZE_MAX, max(CHILD_SIZE_MIN, 2 * largest))


def worker_folder(batch: Batch) -> Path:
    """Folder of the worker within the campaign's; made if need be."""
    path = Path(batch.out) / f"worker-{batch.worker}"
    path.mkdir(parents=True, exist_ok=True)
    return path
