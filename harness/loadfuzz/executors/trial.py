"""One input and what the target did with it, ready to be looked at closer."""

from loadfuzz.abc import Subject, Target
from loadfuzz.errors import InfraError
from loadfuzz.execution import Escape, Execution, ExitKind, Outcome, Refusal
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.guard import guarded_call, guarded_load
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import Delivery, Input
from savevm.document import Document


class Bench:
    """What the trials of one executor share.

    Args:
        target: what is fuzzed.
        subject: the loader that inputs are fed to.
        documents: trees by stream.
        watchdog: guards everything the target does.

    Attributes:
        current: the trial whose load the subject has seen last.
        touched: the subject did more than that load and must be reset.
    """

    __slots__ = ("_spare", "current", "documents", "subject", "target", "touched", "watchdog")

    def __init__(
        self, target: Target, subject: Subject, documents: Documents, watchdog: Watchdog
    ) -> None:
        self.target = target
        self.subject = subject
        self.documents = documents
        self.watchdog = watchdog
        self.current: LoadTrial | None = None
        self.touched = False
        self._spare: Subject | None = None

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


class LoadTrial:
    """See :class:`loadfuzz.abc.Trial`.  Good until its executor's next execution."""

    __slots__ = ("_after", "_bench", "_document", "_reloads", "_repeats", "_saved",
                 "digest_before", "execution", "input")  # fmt: skip

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
            # A save may change state (the run state that it saves, for one).
            self.digest_after  # noqa: B018
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
        outcome = self._repeats.get(key)
        if outcome is None:
            _, outcome = self._load_fresh(stream, delivery)
            self._repeats[key] = outcome
        return outcome

    def reload(self, stream: bytes) -> tuple[Outcome, bytes]:
        """Load ``stream`` into a fresh subject and save it again.

        Raises:
            SubjectError: the fresh subject fails in something else than the load.
        """
        if self._reloads is None:
            self._reloads = {}
        known = self._reloads.get(stream)
        if known is None:
            subject, outcome = self._load_fresh(stream, Delivery())
            saved = b""
            if outcome.kind is ExitKind.ACCEPTED:
                saved = guarded_call("saving the state", subject.save, self._bench.watchdog)
            known = self._reloads[stream] = (outcome, saved)
        return known

    def _load_fresh(self, stream: bytes, delivery: Delivery) -> tuple[Subject, Outcome]:
        bench = self._bench
        subject = bench.fresh()
        kind, refusal, escape, _ = guarded_load(
            subject, Input(stream, delivery), None, bench.watchdog
        )
        if kind not in (ExitKind.ACCEPTED, ExitKind.REJECTED):
            bench.forget_spare()
        digest = guarded_call("digesting the state", subject.digest, bench.watchdog)
        return subject, Outcome(kind, _words(refusal, escape), digest)

    def _check_current(self) -> None:
        if self._bench.current is not self:
            raise InfraError("a trial was asked about its subject after the next execution")


def _words(refusal: Refusal | None, escape: Escape | None) -> str:
    if refusal is not None:
        return refusal.text
    return f"{escape.type_name}: {escape.message}" if escape is not None else ""
