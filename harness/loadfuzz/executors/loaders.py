"""The loaders that the trials of one executor share: its own, a spare, a twin."""

from typing import Final

from loadfuzz.abc import Accountable, HasTwin, Subject, Target
from loadfuzz.execution import Escape, ExitKind, Outcome, Refusal
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.guard import guarded_call, guarded_load
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import WHOLE, Delivery, Input

VERDICTS: Final = frozenset({ExitKind.ACCEPTED, ExitKind.REJECTED})
"""How a load ends that leaves its loader fit to be used again."""


class Bench:
    """What the trials of one executor share.

    Args:
        target: what is fuzzed.
        subject: the loader that inputs are fed to.
        documents: trees by stream.
        watchdog: guards everything the target does.

    Attributes:
        current: the trial whose load the subject has seen last.
        touched: the subject did more than the load of a trial and must be reset.
        held: what it held when it was new, by name.
        peaks: how often somebody asked what a load takes at its peak.
    """

    __slots__ = (
        "_at_start", "_spare", "_twin", "_twin_subject", "current", "documents",
        "held", "peaks", "subject", "target", "touched", "watchdog",
    )  # fmt: skip

    def __init__(
        self, target: Target, subject: Subject, documents: Documents, watchdog: Watchdog
    ) -> None:
        self.target = target
        self.subject = subject
        self.documents = documents
        self.watchdog = watchdog
        self.current: object = None
        self.touched = False
        self.held = dict(subject.resources()) if isinstance(subject, Accountable) else {}
        self.peaks = 0
        self._spare: Subject | None = None
        self._twin: Target | None = None
        self._twin_subject: Subject | None = None
        self._at_start: bytes | None = None

    def fresh(self) -> Subject:
        """A second loader, as new.

        Raises:
            SubjectError: the target cannot make one.
        """
        spare = self._spare
        if spare is None:
            spare = guarded_call("opening a loader", self.target.open, self.watchdog)
        else:
            # Kept only if its reset succeeds.
            self._spare = None
            guarded_call("resetting a loader", spare.reset, self.watchdog)
        self._spare = spare
        return spare

    def forget_spare(self) -> None:
        """The second loader may be damaged; make another next time."""
        self._spare = None

    def at_start(self) -> bytes:
        """What a fresh subject saves; asked once.

        Raises:
            SubjectError: it cannot.
        """
        if self._at_start is None:
            subject = self.fresh()
            self._at_start = guarded_call("saving the state", subject.save, self.watchdog)
        return self._at_start

    def twin(self) -> Subject | None:
        """A loader of the target's twin, as new; ``None`` where there is none.

        Raises:
            SubjectError: it cannot be made.
        """
        if not isinstance(self.target, HasTwin):
            return None
        if self._twin is None:
            self._twin = self.target.twin()
        subject, self._twin_subject = self._twin_subject, None
        if subject is None:
            subject = guarded_call("opening a twin", self._twin.open, self.watchdog)
        else:
            guarded_call("resetting a twin", subject.reset, self.watchdog)
        return subject

    def keep_twin(self, subject: Subject) -> None:
        """The twin's loader may be used again."""
        self._twin_subject = subject

    def damages(self) -> tuple[str, ...]:
        """What the subject says of its memory; nothing where it cannot tell.

        Raises:
            SubjectError: it fails.
        """
        if not isinstance(self.subject, Accountable):
            return ()
        return tuple(guarded_call("looking at redzones", self.subject.damages, self.watchdog))

    def holds_more(self) -> bool:
        """Whether the subject counts more of anything than when it was new.

        Raises:
            SubjectError: it fails.
        """
        if not isinstance(self.subject, Accountable):
            return False
        now = guarded_call("counting resources", self.subject.resources, self.watchdog)
        return any(count > self.held.get(name, 0) for name, count in now.items())

    def run(
        self, subject: Subject, stream: bytes, delivery: Delivery = WHOLE
    ) -> tuple[ExitKind, Refusal | None, Escape | None]:
        """Load ``stream`` into a loader.  One that this may have damaged is not used again."""
        kind, refusal, escape, _ = guarded_load(
            subject, Input(stream, delivery), None, self.watchdog
        )
        if kind not in VERDICTS and subject is self._spare:
            self.forget_spare()
        return kind, refusal, escape

    def load(self, subject: Subject, stream: bytes, delivery: Delivery = WHOLE) -> Outcome:
        """Load ``stream`` into a loader and say what that came to.

        Raises:
            SubjectError: it fails in something else than the load.
        """
        kind, refusal, escape = self.run(subject, stream, delivery)
        digest = guarded_call("digesting the state", subject.digest, self.watchdog)
        return Outcome(kind, _words(refusal, escape), digest)


def _words(refusal: Refusal | None, escape: Escape | None) -> str:
    if refusal is not None:
        return refusal.text
    return f"{escape.type_name}: {escape.message}" if escape is not None else ""
