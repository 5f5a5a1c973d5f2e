"""What a worker knows of its batch and keeps count of, the same wherever the loader runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadfuzz.abc import Format
from loadfuzz.campaign.batch import Batch, BatchResult
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.engines.judging import Emit
from loadfuzz.engines.lineage import Lineage
from loadfuzz.engines.tally import Tally
from loadfuzz.events import CorpusAdded
from loadfuzz.executors.documents import Documents
from loadfuzz.feedback.novelty import Novelty, Observation
from loadfuzz.inputs import STREAM_SIZE_MAX

PROGRESS_S: Final = 0.5
"""Time between two reports of totals."""

PROGRESS_EXECUTIONS: Final = 64
"""Executions between them where the budget is one of executions: there the same
seed has to give the same events, and a clock does not.  Few enough that even a
target that hangs each time is not taken for a worker that is stuck."""

CHILD_SIZE_MIN: Final = 1 << 16
"""Smallest bound on the size of children; below it mutators lack room."""


class Account(ABC):
    """A worker's batch, its feedback so far, and its numbers; how an input is run, whoever
    is derived from it knows.

    Args:
        batch: what it is to do.
        target: what is fuzzed.
        emit: hears of everything.
        stopped: somebody wants the worker to end.
        clock: for the budget in seconds.

    Attributes:
        target: see above.
        tally: the numbers so far.
        novelty: the feedback so far.
        documents: trees by stream.
        corpus_size: entries of the corpus, for reports.
        added: digests of the entries this worker added.
    """

    def __init__(
        self,
        batch: Batch,
        target: Format,
        emit: Emit,
        stopped: Callable[[], bool],
        clock: Clock | None = None,
    ) -> None:
        self.batch = batch
        self.target: Format = target
        self.emit = emit
        self.tally = Tally()
        self.novelty = Novelty()
        self.documents = Documents(target)
        self.corpus_size = 0
        self.added: list[str] = []
        self._stopped = stopped
        self._clock = clock or SystemClock()
        self._start_s = self._progress_s = self._clock.now_s()
        self._progress_at = PROGRESS_EXECUTIONS

    @abstractmethod
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

    @abstractmethod
    def observe(self, stream: bytes) -> Observation:
        """Run an input that was judged before, for what it shows alone."""

    @abstractmethod
    def fault(self, doing: str, error: BaseException) -> None:
        """Something of ours went wrong; the run goes on."""

    @abstractmethod
    def result(self, reason: str) -> BatchResult:
        """What it all came to.

        Args:
            reason: why the worker ends.
        """

    def avoids(self, child: bytes, lineage: Lineage) -> bool:
        """Whether an input had better not be run: what it would show is known."""
        return False

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


def child_size_max(largest: int) -> int:
    """Bound on the size of children, for a largest seed of so many bytes."""
    return min(STREAM_SIZE_MAX, max(CHILD_SIZE_MIN, 2 * largest))


def worker_folder(batch: Batch) -> Path:
    """Folder of the worker within the campaign's; made if need be."""
    path = Path(batch.out) / f"worker-{batch.worker}"
    path.mkdir(parents=True, exist_ok=True)
    return path
