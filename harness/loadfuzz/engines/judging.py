"""From a trial to findings: asks the oracles, tells new alarms from known ones,
confirms, writes, announces.

Theory of operation.  Cheap oracles see every execution, dear ones everything
new and one in so many of the rest.  The input of the first alarm of each signature is
reduced (:mod:`loadfuzz.engines.reducing`), and what is left of it is
confirmed by running it again in loaders opened for that purpose; how
often it rang again is its reliability.  The finding is complete on disk before
anyone hears of it.  Later alarms of the same signature are only counted.

An oracle that fails is our own fault: it is reported as a warning and never
becomes a finding.  A target that fails while an oracle looks closer (it cannot
save what it accepted) is the target's fault: that is an alarm of this oracle.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.campaign.batch import Batch
from loadfuzz.engines.lineage import Lineage
from loadfuzz.engines.reducing import Reduced, Reducer
from loadfuzz.engines.tally import Tally
from loadfuzz.events import Event, FindingAnnounced, FindingRepeated, MachineryWarning
from loadfuzz.execution import ExitKind
from loadfuzz.executors.guard import SubjectError, frames_of
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import SUSPICION_SHARE
from loadfuzz.faults.words import describe
from loadfuzz.feedback.novelty import OVERRUNS
from loadfuzz.findings import Finding, Violation, folder_name
from loadfuzz.inputs import Input, digest_of
from loadfuzz.oracles import FAULTS, UNDER_FAULTS, no_hang
from loadfuzz.storage import explain

CONFIRMATIONS: Final = 3
"""Re-runs of the first input of each signature."""
HANG_CONFIRMATIONS: Final = 1
"""The same for one that does not end: each costs all the time that a load may take, and it was
run twice before it was called a hang."""

DEAREST_SHARE: Final = 4
"""Of the closer looks, the dearest oracles take part in one of so many."""

SIGNATURES_MAX: Final = 1000
"""Signatures that one worker confirms and writes; an oracle that calls every
alarm by another name must not fill the disk."""

FAULTS_MAX: Final = 20
"""Different faults of our own that are reported in full."""

Emit: TypeAlias = Callable[[Event], None]
Look: TypeAlias = Callable[[Trial], Violation | None]
WriteFinding: TypeAlias = Callable[[Path, Finding], str | None]


class Judge:
    """Judges the trials of one worker.

    Args:
        batch: of the worker.
        oracles: all that are to be asked.
        tally: where it is counted how often each was.
        emit: hears of findings.
        write: keeps a finding, see :func:`loadfuzz.repro.folder.write_finding`.
        open_executor: makes an executor with loaders of its own.
        heard: hears every alarm, known or new; for a bench that knows the bugs.
        reducer: reduces inputs; without it they are kept as they were found.

    Attributes:
        findings: signatures that this worker announced, in order.
        faults: times that an oracle failed.
    """

    def __init__(
        self,
        batch: Batch,
        oracles: Sequence[Oracle],
        tally: Tally,
        emit: Emit,
        write: WriteFinding,
        open_executor: Callable[[], InProcessExecutor],
        heard: Callable[[Violation], None] | None = None,
        reducer: Reducer | None = None,
    ) -> None:
        self._batch = batch
        self._heard = heard
        self._reducer = reducer
        self._cheap = tuple(oracle for oracle in oracles if oracle.cost is Cost.CHEAP)
        self._dear = tuple(oracle for oracle in oracles if oracle.cost is not Cost.CHEAP)
        asked = {oracle.name for oracle in oracles}
        self._under_faults = tuple(
            oracle
            for oracle in UNDER_FAULTS
            if asked and (oracle is FAULTS or oracle.name in asked)
        )
        self._quick = tuple(
            (oracle, oracle.quick) for oracle in self._dear if oracle.quick is not None
        )
        self._dear_share = max(batch.dear_share, 1)
        self._tally = tally
        self._emit = emit
        self._write = write
        self._open_executor = open_executor
        self._out = Path(batch.out)
        self._seen: dict[str, int] = {}
        self._ignored = frozenset(batch.ignore)
        self._fault_texts: set[str] = set()
        self._hangs: set[str] = set()
        self._full = False
        self._looks = 0
        self._until_dear = self._dear_share
        self.findings: list[str] = []
        self.faults = 0
        for oracle in (*self._cheap, *self._dear, *self._under_faults):
            tally.judged[oracle.name] = 0

    def settle(self, trial: LoadTrial) -> LoadTrial:
        """What a trial that was interrupted really came to: itself if a re-run
        with the whole CPU limit does not end either, else that re-run."""
        escape = trial.execution.escape
        place = escape.frames[-1].rpartition(":")[0] if escape and escape.frames else ""
        alarm = no_hang.judge(trial)
        if place in self._hangs or (alarm is not None and alarm.signature in self._ignored):
            return trial  # whether it is one was settled before
        try:
            executor = self._open_executor()
            executor.allow(SUSPICION_SHARE)
            try:
                again = executor.execute(trial.input)
            finally:
                executor.allow(1)
        except Exception as error:
            self.fault("confirming a hang", error)
            return trial
        if again.execution.kind is ExitKind.TIMED_OUT:
            if place and len(self._hangs) < SIGNATURES_MAX:
                self._hangs.add(place)
            return trial
        return again

    def judge(self, trial: Trial, *, new: bool, lineage: Lineage) -> int:
        """Ask the oracles about a trial.

        Args:
            trial: still current at its executor.
            new: it is new in some way: have the dear oracles look too.
            lineage: of its input.

        Returns:
            How many of them raised an alarm.

        Raises:
            InfraError: a finding cannot be written.
        """
        alarms = 0
        judged = self._tally.judged
        for oracle in self._cheap:
            judged[oracle.name] += 1
            alarms += self._hear(oracle, oracle.judge, trial, lineage)
        self._until_dear -= 1
        if new or self._until_dear <= 0:
            if self._until_dear <= 0:
                self._until_dear = self._dear_share
            self._looks += 1
            refused = trial.execution.kind is ExitKind.REJECTED
            for oracle in self._dear:
                cost = oracle.cost_refused if refused and oracle.cost_refused else oracle.cost
                if cost is Cost.DEAREST and self._looks % DEAREST_SHARE != 1:
                    if oracle.quick is not None:
                        alarms += self._hear(oracle, oracle.quick, trial, lineage)
                    continue
                judged[oracle.name] += 1
                alarms += self._hear(oracle, oracle.judge, trial, lineage)
        else:
            for oracle, look in self._quick:
                alarms += self._hear(oracle, look, trial, lineage)
        return alarms

    @property
    def wants_faults(self) -> bool:
        """Whether anybody would judge a load around which things go wrong."""
        return bool(self._under_faults)

    def judge_faulty(self, trial: Trial, lineage: Lineage) -> int:
        """Ask the oracles that judge a load around which things went wrong.

        Args, Returns, Raises: as :meth:`judge`.
        """
        alarms = 0
        for oracle in self._under_faults:
            self._tally.judged[oracle.name] += 1
            alarms += self._hear(oracle, oracle.judge, trial, lineage)
        return alarms

    def _hear(self, oracle: Oracle, look: Look, trial: Trial, lineage: Lineage) -> int:
        violation = self._ask(oracle, look, trial)
        if violation is None:
            return 0
        if self._heard is not None:
            self._heard(violation)
        self._handle(oracle, look, violation, trial, lineage)
        return 1

    def fault(self, what: str, error: BaseException) -> None:
        """Report a failure of our own, each kind once."""
        self.faults += 1
        where = " < ".join(reversed(frames_of(error.__traceback__)))
        text = f"{what} failed with {type(error).__name__}: {error}"[:500]
        key = f"{what} {type(error).__name__} {where}"
        if key not in self._fault_texts and len(self._fault_texts) < FAULTS_MAX:
            self._fault_texts.add(key)
            self._emit(MachineryWarning(f"worker {self._batch.worker}: {text} ({where})"))

    def _ask(self, oracle: Oracle, look: Look, trial: Trial) -> Violation | None:
        try:
            return look(trial)
        except SubjectError as error:
            return alarm_of(oracle, error)
        except Exception as error:
            self.fault(f"oracle {oracle.name}", error)
            return None

    def _handle(
        self, oracle: Oracle, look: Look, violation: Violation, trial: Trial, lineage: Lineage
    ) -> None:
        signature = violation.signature
        times = self._seen.get(signature, 0) + 1
        ignored = signature in self._ignored
        if times == 1 and not ignored:
            if len(self._seen) >= SIGNATURES_MAX:
                self._tell_full()
                return
            # Before it counts as seen: what could not be written is not known yet.
            self._keep(oracle, look, violation, trial, lineage)
        self._seen[signature] = times
        if (times > 1 or ignored) and times & (times - 1) == 0:
            self._emit(FindingRepeated(self._batch.worker, signature, times))

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            self._emit(MachineryWarning(
                f"worker {self._batch.worker} has {SIGNATURES_MAX} findings; further ones are not "
                "kept. Repair what the loader does, or the oracle that names each alarm otherwise"
            ))  # fmt: skip

    def _keep(
        self, oracle: Oracle, look: Look, violation: Violation, trial: Trial, lineage: Lineage
    ) -> None:
        batch, signature = self._batch, violation.signature
        if (self._out / "findings" / folder_name(signature)).exists():
            # Another worker, or an earlier run, has it already.
            self._emit(FindingRepeated(batch.worker, signature, 1))
            return
        executions = self._tally.executions
        finding = Finding(
            target=batch.target,
            input=trial.input,
            violation=violation,
            execution=trial.execution,
            parent=lineage.parent_digest,
            parent_stream=lineage.parent or b"",
            mutations=lineage.mutations,
            seed=batch.seed,
            worker=batch.worker,
            executions=executions,
            load_timeout_s=batch.load_timeout_s,
        )
        finding = self._confirmed(oracle, finding, self._reduced(oracle, look, finding, lineage))
        finding = self._told(finding)
        violation = finding.violation
        try:
            folder = self._write(self._out, finding)
        except OSError as error:
            raise explain(error, f"writing a finding to {self._out}") from error
        if folder is None:
            # Another worker, or an earlier run, has it already.
            self._emit(FindingRepeated(batch.worker, finding.signature, 1))
            return
        self.findings.append(finding.signature)
        self._emit(
            FindingAnnounced(
                batch.worker,
                finding.signature,
                violation.oracle,
                violation.title,
                violation.path,
                folder,
                executions,
                finding.reliability,
            )
        )

    def _confirmed(self, oracle: Oracle, finding: Finding, reduced: Reduced | None) -> Finding:
        """The finding with its reliability, reduced unless that made it less reliable."""
        signature = finding.signature
        if reduced is None:
            return replace(finding, reliability=self._reliability(oracle, signature, finding.input))
        smaller = replace(
            finding,
            input=reduced.input,
            violation=reduced.violation,
            execution=reduced.execution,
            parent="" if reduced.parent is None else digest_of(reduced.parent),
            parent_stream=reduced.parent or b"",
            mutations=reduced.mutations,
            reliability=self._reliability(oracle, signature, reduced.input),
        )
        again, tries = smaller.reliability
        if again == tries:
            return smaller
        whole = self._confirmed(oracle, finding, None)
        return whole if whole.reliability[0] > again else smaller

    def _told(self, finding: Finding) -> Finding:
        """The finding with words for its faults, if it has any."""
        item = finding.input
        if not item.faults:
            return finding
        try:
            document = self._open_executor().documents.document(item.stream)
            return replace(finding, fault_words=tuple(describe(item.faults, document)))
        except Exception as error:
            self.fault("describing faults", error)
            return finding

    def _reduced(
        self, oracle: Oracle, look: Look, finding: Finding, lineage: Lineage
    ) -> Reduced | None:
        """What is left of a finding's input; ``None`` for all of it."""
        if self._reducer is None or finding.execution.kind in OVERRUNS:
            return None
        signature = finding.signature

        def rings(trial: Trial) -> Violation | None:
            try:
                violation = look(trial)
            except SubjectError as error:
                if error.kind in OVERRUNS:
                    raise
                violation = alarm_of(oracle, error)
            return violation if violation and violation.signature == signature else None

        try:
            return self._reducer.reduce(
                finding.input, lineage, signature, rings, finding.executions
            )
        except Exception as error:
            self.fault("reducing a finding", error)
            return None

    def _reliability(self, oracle: Oracle, signature: str, item: Input) -> tuple[int, int]:
        again = 0
        tries = HANG_CONFIRMATIONS if oracle.name == no_hang.NAME else CONFIRMATIONS
        for _ in range(tries):
            try:
                executor = self._open_executor()
                # All of the limit: what was only slow is not what it seemed.
                executor.allow(SUSPICION_SHARE)
                try:
                    trial = executor.execute(item)
                    violation = self._ask(oracle, oracle.judge, trial)
                finally:
                    executor.allow(1)
            except Exception as error:
                self.fault("confirming a finding", error)
                continue
            again += violation is not None and violation.signature == signature
        return again, tries


def alarm_of(oracle: Oracle, error: SubjectError) -> Violation:
    """The alarm that a target raises by failing while ``oracle`` looks closer."""
    where = error.escape.frames[-1].rpartition(":")[0] if error.escape.frames else "unknown"
    said = f"{error.escape.type_name}: {error.escape.message}"
    return Violation(
        oracle.name,
        f"{error.doing}, {said} left the target at {where}",
        f"{error.doing} succeeds",
        " < ".join((said, *reversed(error.escape.frames))),
        f"{error.doing}/{error.escape.type_name} at {where}",
    )
