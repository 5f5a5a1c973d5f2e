"""One worker's work on one input, the same under every engine.

Runs it, takes in its feedback, has it judged, counts it, and tells how it is
going.  Everything that happens once per execution happens here: the tax that a
load has to pay is this file and what it calls.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadfuzz.abc import Oracle, Target
from loadfuzz.campaign.batch import Batch, BatchResult
from loadfuzz.clock import Clock
from loadfuzz.engines.account import PROGRESS_S, Account
from loadfuzz.engines.blame import Overruns
from loadfuzz.engines.faulting import Faulting
from loadfuzz.engines.judging import Emit, Judge, WriteFinding
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.looks import CloserLooks
from loadfuzz.engines.reducing import Reducer
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.feedback.novelty import Observation
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, CorruptEntryError, seeds_of

SEEDS_MAX: Final = 256
"""Seeds that a finding's input may be told apart from."""

PROGRESS_TRIES: Final = 8
"""Tries of a reduction between two reports of totals where the budget is one of executions; a
try takes no longer than a load may."""


class Session(Account):
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
        super().__init__(batch, target, emit, stopped, clock)
        self.target: Target = target
        self._executor = InProcessExecutor(target, watchdog, self.documents)
        self.judge = Judge(
            batch,
            oracles,
            self.tally,
            emit,
            write,
            lambda: InProcessExecutor(target, watchdog, self.documents),
            heard,
            Reducer(
                batch, target, lambda: InProcessExecutor(target, watchdog), self._seeds,
                last_input, self._clock, self._interrupted,
            ),
        )  # fmt: skip
        self._faulting = Faulting(
            self._executor.layers if self.judge.wants_faults else frozenset(),
            self._executor.fault_places,
            self.documents,
            Rng(batch.seed).child(f"faults/{batch.worker}"),
        )
        self._overruns = Overruns(Rng(batch.seed).child("overruns"))
        self._pending: tuple[LoadTrial, bool, Lineage] | None = None
        self._looked = CloserLooks()
        self._last_input = last_input

    def run(self, stream: bytes, lineage: Lineage) -> Observation:
        """See :meth:`Account.run`."""
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
        self._overruns.ran(lineage.mutations, kind)
        worth = self._looked.worth(kind, lineage.mutations, telling=seen.telling)
        self._pending = (trial, worth, lineage)
        return seen

    def observe(self, stream: bytes) -> Observation:
        """See :meth:`Account.observe`."""
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
            if not self._used_up():
                self._do_faults(trial, lineage)

    def _seeds(self) -> list[bytes]:
        """The streams that people or the target gave, for telling mutants apart from."""
        campaign = Path(self.batch.out)
        corpus = Corpus(campaign / "corpus")
        found: list[bytes] = []
        for digest in sorted(seeds_of(campaign).read() or ())[:SEEDS_MAX]:
            with suppress(FileNotFoundError, CorruptEntryError):
                found.append(corpus.read(digest))
        return found

    def _interrupted(self, tries: int) -> bool:
        """Whether reducing a finding should end; asked before each try, so that whoever waits
        for us hears of us."""
        now_s = self._clock.now_s()
        if self.batch.executions is not None:
            due = tries % PROGRESS_TRIES == PROGRESS_TRIES - 1
        else:
            due = now_s - self._progress_s >= PROGRESS_S
        if due:
            self._progress_s = now_s
            self.report()
        return self._stopped()

    def _used_up(self) -> bool:
        executions = self.batch.executions
        return executions is not None and self.tally.executions >= executions

    def _do_faults(self, clean: LoadTrial, lineage: Lineage) -> None:
        """Load the input of ``clean`` once more while things go wrong, if it is its turn."""
        item = self._faulting.draw(clean, lineage.parent)
        if item is None:
            return
        try:
            without = Outcome(clean.execution.kind, "", clean.digest_after)
        except SubjectError:
            return  # the oracles were told
        tally = self.tally
        self._last_input.begin(item.stream, tally.executions + 1)
        trial = self._executor.execute(item)
        if trial.execution.kind is ExitKind.TIMED_OUT:
            trial = self.judge.settle(trial)
        self._last_input.loaded()
        trial.know(without)
        tally.count(trial.execution)
        tally.struck(item.faults, fresh=self._faulting.learn(trial))
        self.judge.judge_faulty(trial, lineage)
        self._last_input.end()

    def avoids(self, child: bytes, lineage: Lineage) -> bool:
        """See :meth:`Account.avoids`."""
        return self._overruns.avoids(lineage.mutations)

    def fault(self, doing: str, error: BaseException) -> None:
        """See :meth:`Account.fault`."""
        self.judge.fault(doing, error)

    def result(self, reason: str) -> BatchResult:
        """See :meth:`Account.result`."""
        return BatchResult(
            self.tally.executions,
            tuple(self.added),
            tuple(self.judge.findings),
            self.tally.depth_counts(),
            self.tally.kind_counts(),
            reason,
            self.judge.faults,
        )
