"""A session that keeps account of known bugs while somebody's inputs are run."""

import time
from collections.abc import Callable
from pathlib import Path

from loadfuzz.abc import Target
from loadfuzz.bench.bugs.meetings import Ledger
from loadfuzz.bench.bugs.trial import TrialRequest, WorkerResult
from loadfuzz.bench.truth import KnowsBugs
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import Lineage
from loadfuzz.engines.session import Session
from loadfuzz.errors import UsageError
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.feedback.novelty import Observation
from loadfuzz.findings import Finding
from loadfuzz.oracles import ALL
from loadfuzz.repro.folder import write_finding


class BugSession(Session):
    """Runs and judges inputs like any session; asks the target after each what it met.

    Args:
        request: what the trial is.
        target: one that knows its bugs.
        watchdog: entered for as long as the session runs.
        last_input: as every session needs one.
        stopped: somebody wants the trial to end.
        progress: is told the names of the detected bugs when there are more.

    Raises:
        UsageError: the target does not know its bugs.
    """

    def __init__(
        self,
        request: TrialRequest,
        batch: Batch,
        target: Target,
        watchdog: Watchdog,
        last_input: LastInput,
        stopped: Callable[[], bool],
        progress: Callable[[tuple[str, ...]], None],
    ) -> None:
        if not isinstance(target, KnowsBugs):
            raise UsageError(f"target {target.name!r} does not know its bugs; try planted")
        start = time.perf_counter()
        self.ledger = Ledger(target.bug_rows(), lambda: time.perf_counter() - start)
        self._request = request
        self._knows = target
        self._progress = progress
        self._begun_s = start
        self._told = 0
        super().__init__(
            batch, target, ALL, lambda event: None, _write, watchdog, last_input, stopped,
            heard=self.ledger.hear,
        )  # fmt: skip
        target.take_met()

    def judge_pending(self) -> None:
        """As always; then the account is settled."""
        super().judge_pending()
        ledger = self.ledger
        ledger.settle(self._knows.take_met(), self.tally.executions)
        detected = ledger.detected
        if len(detected) > self._told:
            self._told = len(detected)
            self._progress(detected)

    def run(self, stream: bytes, lineage: Lineage) -> Observation:
        """Run, judge and settle one input."""
        seen = self.execute(stream, lineage)
        self.judge_pending()
        return seen

    def ended(self) -> str:
        """Also when there is nothing left to detect."""
        if self._request.until_all and self.ledger.complete:
            return "budget"
        return super().ended()

    def outcome(self) -> WorkerResult:
        """What it all came to."""
        return WorkerResult(
            self.tally.executions,
            round(time.perf_counter() - self._begun_s, 3),
            len(self.novelty.hits),
            self.ledger.meetings(),
        )


def batch_of(request: TrialRequest) -> Batch:
    """The batch that a trial's session works on."""
    return Batch(
        request.target,
        Engine.NATIVE,
        request.out,
        request.worker,
        request.seed,
        request.seconds,
        request.executions,
        load_timeout_s=request.load_timeout_s,
    )


def _write(out: Path, finding: Finding) -> str | None:
    return write_finding(out, finding)
