"""One input and what the target did with it, ready to be looked at closer."""

from collections.abc import Sequence
from typing import Final

from loadfuzz.abc import (
    Accountable,
    Growth,
    GuestRun,
    Subject,
    TakesFaults,
    Target,
    TellsViolations,
)
from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution, ExitKind, Outcome
from loadfuzz.executors.guard import SubjectError, guarded_call
from loadfuzz.executors.loaders import VERDICTS, Bench
from loadfuzz.executors.memory import peak_bytes_of, room_for
from loadfuzz.executors.watchdog import SUSPICION_SHARE
from loadfuzz.faults.plan import Fault
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE, Delivery, Input
from savevm.document import Document

EXACT_SHARE: Final = 16
"""Of refused inputs whose memory is asked for, one in so many is measured whatever shows."""


class LoadTrial:
    """See :class:`loadfuzz.abc.Trial`.  Good until its executor's next execution."""

    __slots__ = (
        "_after", "_bench", "_damages", "_document", "_faults", "_growth", "_histories", "_more",
        "_ran", "_reloads", "_repeats", "_saved", "_struck", "_thrice", "_violations",
        "digest_before", "execution", "input",
    )  # fmt: skip

    def __init__(self, bench: Bench, item: Input, execution: Execution, digest_before: str) -> None:
        self._bench = bench
        self.input = item
        self.execution = execution
        self.digest_before = digest_before
        self._after: str | None = None
        self._document: Document | None = None
        self._saved: bytes | None = None
        self._repeats: dict[tuple[bytes, Delivery], Outcome] | None = None
        self._reloads: dict[bytes, tuple[Outcome, bytes]] | None = None
        self._histories: dict[tuple[bytes, ...], Outcome] | None = None
        self._faults: tuple[str, ...] | None = None
        self._ran: GuestRun | SubjectError | None = None
        self._growth: Growth | None = None
        self._more: bool | None = None
        self._thrice = False
        self._struck: tuple[Fault, ...] | None = None
        self._violations: tuple[Violation, ...] | None = None
        self._damages: tuple[str, ...] | None = None

    @property
    def target(self) -> Target:
        """What is fuzzed."""
        return self._bench.target

    @property
    def digest_after(self) -> str:
        """See :attr:`loadfuzz.abc.Trial.digest_after`.

        Raises:
            SubjectError: the subject cannot tell.
        """
        if self._after is None:
            self._check_current()
            bench = self._bench
            self._after = guarded_call("digesting the state", bench.subject.digest, bench.watchdog)
        return self._after

    def document(self) -> Document:
        """The input's tree."""
        if self._document is None:
            self._document = self._bench.documents.document(self.input.stream)
        return self._document

    def saved(self) -> bytes:
        """What the subject saves after the load.

        Raises:
            SubjectError: it cannot.
        """
        if self._saved is None:
            self._check_current()
            # A save may change state (the run state that it saves, for one), and so may
            # what the guest does afterwards.
            self.digest_after  # noqa: B018
            self.damages()
            bench = self._bench
            bench.touched = True
            self._saved = guarded_call("saving the state", bench.subject.save, bench.watchdog)
        return self._saved

    def repeat(self, stream: bytes, delivery: Delivery) -> Outcome:
        """Load ``stream`` into a fresh subject, delivered in another way.

        Raises:
            SubjectError: the fresh subject fails in something else than the load.
        """
        if self._repeats is None:
            self._repeats = {}
        key = (stream, delivery)
        if key == (self.input.stream, WHOLE) and key not in self._repeats:
            self._load_thrice()
        outcome = self._repeats.get(key)
        if outcome is None:
            outcome = self._repeats[key] = self._outcome_after((), stream, delivery)
        return outcome

    def know(self, outcome: Outcome) -> None:
        """What the input comes to while nothing goes wrong, where that was just seen."""
        self._repeats = {(self.input.stream, self.input.delivery): outcome}

    def reload(self, stream: bytes) -> tuple[Outcome, bytes]:
        """Load ``stream`` into a fresh subject and save it again.

        Raises:
            SubjectError: the fresh subject fails in something else than the load.
        """
        if self._reloads is None:
            self._reloads = {}
        known = self._reloads.get(stream)
        if known is None:
            subject, outcome = self._load_fresh(stream)
            saved = b""
            if outcome.kind is ExitKind.ACCEPTED:
                saved = guarded_call("saving the state", subject.save, self._bench.watchdog)
            known = self._reloads[stream] = (outcome, saved)
        return known

    def faults(self) -> tuple[str, ...]:
        """See :meth:`loadfuzz.abc.Trial.faults`.

        Raises:
            SubjectError: the subject cannot tell.
        """
        if self._faults is None:
            self._check_current()
            bench = self._bench
            check = bench.subject.check_invariants
            self._faults = tuple(guarded_call("checking invariants", check, bench.watchdog))
        return self._faults

    def damages(self) -> tuple[str, ...]:
        """See :meth:`loadfuzz.abc.Trial.damages`."""
        if self._damages is None:
            self._check_current()
            bench = self._bench
            self._damages = bench.damages()
        return self._damages

    def struck(self) -> tuple[Fault, ...]:
        """See :meth:`loadfuzz.abc.Trial.struck`.

        Raises:
            SubjectError: the subject cannot tell.
        """
        if self._struck is None:
            self._struck = ()
            bench = self._bench
            if self.input.faults and isinstance(bench.subject, TakesFaults):
                self._check_current()
                told = guarded_call("asking what struck", bench.subject.struck, bench.watchdog)
                self._struck = tuple(told)
        return self._struck

    def violations(self) -> tuple[Violation, ...]:
        """See :meth:`loadfuzz.abc.Trial.violations`.

        Raises:
            SubjectError: the subject cannot tell.
        """
        if self._violations is None:
            self._violations = ()
            bench = self._bench
            if isinstance(bench.subject, TellsViolations):
                self._check_current()
                ask = bench.subject.violations
                self._violations = tuple(guarded_call("asking for promises", ask, bench.watchdog))
        return self._violations

    def holds_more(self) -> bool:
        """See :meth:`loadfuzz.abc.Trial.holds_more`."""
        if self._more is None:
            self._check_current()
            bench = self._bench
            self._more = bench.holds_more()
        return self._more

    def guest_run(self, steps: int) -> GuestRun:
        """See :meth:`loadfuzz.abc.Trial.guest_run`; the guest runs once per trial, as
        far as who asks first wants.

        Raises:
            SubjectError: a step or the save fails.
        """
        if self._ran is None:
            try:
                self._ran = self._run_guest(steps)
            except SubjectError as error:
                self._ran = error
        if isinstance(self._ran, SubjectError):
            raise self._ran
        return self._ran

    def _run_guest(self, steps: int) -> GuestRun:
        loaded = self.faults()
        # What others ask about the state as loaded has to be asked before it moves on.
        self.saved()
        bench = self._bench
        subject = bench.subject
        bench.touched = True
        guarded_call("running the guest", lambda: subject.step(steps), bench.watchdog)
        ran = guarded_call("checking invariants", subject.check_invariants, bench.watchdog)
        saved = guarded_call("saving after the guest ran", subject.save, bench.watchdog)
        return GuestRun(loaded, tuple(ran), saved)

    def after(self, streams: Sequence[bytes]) -> Outcome:
        """See :meth:`loadfuzz.abc.Trial.after`.

        Raises:
            SubjectError: the fresh subject fails in something else than a load.
        """
        if self._histories is None:
            self._histories = {}
        key = tuple(streams)
        if key == (self.input.stream,):
            self._load_thrice()
        outcome = self._histories.get(key)
        if outcome is None:
            outcome = self._outcome_after(key, self.input.stream, WHOLE)
            self._histories[key] = outcome
        return outcome

    def at_start(self) -> bytes:
        """See :meth:`loadfuzz.abc.Trial.at_start`."""
        return self._bench.at_start()

    def peak_bytes(self, allowed: int) -> int:
        """See :meth:`loadfuzz.abc.Trial.peak_bytes`.

        Raises:
            SubjectError: there is no fresh subject.
        """
        bench = self._bench
        subject = bench.fresh()
        bench.peaks += 1
        # A loader may take a failed allocation for a bad stream, which it had refused anyway.
        exactly = self.execution.kind is ExitKind.REJECTED and not bench.peaks % EXACT_SHARE
        with room_for(allowed) as limited:
            if limited and not exactly and self._does_the_same(subject):
                return 0
        if limited and not exactly:
            bench.forget_spare()
            subject = bench.fresh()
        return peak_bytes_of(lambda: bench.load(subject, self.input.stream, self.input.delivery))

    def _does_the_same(self, subject: Subject) -> bool:
        """Whether the input comes to the same once more."""
        try:
            again = self._bench.load(subject, self.input.stream, self.input.delivery)
        except SubjectError:
            return False
        execution = self.execution
        text = execution.refusal.text if execution.refusal is not None else again.text
        return again.kind is execution.kind and again.text == text

    def growth(self) -> Growth | None:
        """See :meth:`loadfuzz.abc.Trial.growth`.

        Raises:
            SubjectError: the fresh subject fails in something else than the load.
        """
        self._load_thrice()
        return self._growth

    def _load_thrice(self) -> None:
        """Load the input into one fresh subject three times over, once for all who ask.

        The first time is a fresh load, the second one on top of itself; by then what a
        loader sets up once is set up, and what the third leaves behind piles up.
        """
        if self._thrice:
            return
        self._thrice = True
        if self._repeats is None:
            self._repeats = {}
        if self._histories is None:
            self._histories = {}
        bench, stream = self._bench, self.input.stream
        subject = bench.fresh()
        first = bench.load(subject, stream)
        if first.kind is ExitKind.TIMED_OUT:
            return  # it will be tried once more, by who asks
        self._repeats[stream, WHOLE] = first
        second = bench.load(subject, stream)
        if second.kind is ExitKind.TIMED_OUT:
            return
        self._histories[stream,] = second
        if not isinstance(subject, Accountable):
            return
        before = dict(guarded_call("counting resources", subject.resources, bench.watchdog))
        bench.run(subject, stream)
        after = guarded_call("counting resources", subject.resources, bench.watchdog)
        piled_up = tuple(
            (name, count - before.get(name, 0))
            for name, count in after.items()
            if count > before.get(name, 0)
        )
        damages = guarded_call("looking at redzones", subject.damages, bench.watchdog)
        self._growth = Growth(piled_up, tuple(damages))

    def at_twin(self) -> Outcome | None:
        """See :meth:`loadfuzz.abc.Trial.at_twin`.

        Raises:
            SubjectError: the twin fails in something else than the load.
        """
        bench = self._bench
        subject = bench.twin()
        if subject is None:
            return None
        outcome = bench.load(subject, self.input.stream, self.input.delivery)
        if outcome.kind in VERDICTS:
            bench.keep_twin(subject)
        return outcome

    def _load_fresh(self, stream: bytes) -> tuple[Subject, Outcome]:
        """The subject, too; tried once more like :meth:`_outcome_after`."""
        bench = self._bench
        subject = bench.fresh()
        outcome = bench.load(subject, stream)
        if outcome.kind is ExitKind.TIMED_OUT:
            subject = bench.fresh()
            with bench.watchdog.allowing(SUSPICION_SHARE):
                outcome = bench.load(subject, stream)
        return subject, outcome

    def _outcome_after(self, before: Sequence[bytes], stream: bytes, delivery: Delivery) -> Outcome:
        """Load ``stream`` into a fresh subject after others; once more with all of the CPU
        limit if it had to be interrupted, for it may only have been slow."""
        outcome = self._try(before, stream, delivery)
        if outcome.kind is ExitKind.TIMED_OUT:
            with self._bench.watchdog.allowing(SUSPICION_SHARE):
                outcome = self._try(before, stream, delivery)
        return outcome

    def _try(self, before: Sequence[bytes], stream: bytes, delivery: Delivery) -> Outcome:
        bench = self._bench
        subject = bench.fresh()
        for earlier in before:
            bench.run(subject, earlier)
        return bench.load(subject, stream, delivery)

    def _check_current(self) -> None:
        if self._bench.current is not self:
            raise InfraError("a trial was asked about its subject after the next execution")
