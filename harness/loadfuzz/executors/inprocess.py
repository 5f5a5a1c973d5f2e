"""Feeds inputs to a loader in this process, one after another.

Theory of operation.  Before each load the subject is as new: either it really
was reset, or the load before was refused and left its digest as it was, which
is the common case and costs no reset.  The reset waits until the next input,
so that the trial of this one can still look at the subject.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadfuzz.abc import NamesFaultPlaces, Subject, TakesFaults, Target
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.guard import SubjectError, guarded_call, guarded_load
from loadfuzz.executors.loaders import Bench
from loadfuzz.executors.tracing import SectionTrace
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.resolving import needs_document, resolve
from loadfuzz.inputs import Input


class InProcessExecutor:
    """A live loader of a target.

    Args:
        target: what is fuzzed.
        watchdog: guards each load; entered by the caller, since there is one
            per process.
        documents: trees by stream; its own if none is given.

    Raises:
        InfraError: the target cannot be opened.
    """

    __slots__ = ("_bench", "_last", "_pristine", "_trace", "target")

    def __init__(
        self, target: Target, watchdog: Watchdog, documents: Documents | None = None
    ) -> None:
        self.target = target
        self._trace = SectionTrace()
        self._last: LoadTrial | None = None
        subject, self._pristine = _open(target, watchdog)
        # Not "or": a cache that is still empty is false, and would not be shared.
        documents = Documents(target) if documents is None else documents
        self._bench = Bench(target, subject, documents, watchdog)

    @property
    def documents(self) -> Documents:
        """Trees by stream."""
        return self._bench.documents

    @property
    def layers(self) -> frozenset[Layer]:
        """What can go wrong around this loader; empty for one that only takes bytes."""
        subject = self._bench.subject
        return subject.layers if isinstance(subject, TakesFaults) else frozenset()

    @property
    def fault_places(self) -> Mapping[PlaceKind, Sequence[str]]:
        """Names of places where faults can strike it, by kind."""
        subject = self._bench.subject
        return subject.fault_places() if isinstance(subject, NamesFaultPlaces) else {}

    def allow(self, times: int) -> None:
        """Let loads use ``times`` the CPU limit from now on.  The watchdog is
        shared: whoever allows more takes it back."""
        self._bench.watchdog.allow(times)

    def execute(self, item: Input, *, trace: bool = True) -> LoadTrial:
        """Load one input into a subject that is as new.

        Args:
            item: the input.
            trace: listen to section-level trace events; without them
                ``Execution.events`` is empty and the depth a guess.

        Returns:
            The trial; questions to its subject are good until the next call.

        Raises:
            InfraError: the target has no working loader any more.
            UsageError: the input has faults, and this loader cannot be done any to.
        """
        bench = self._bench
        if needs_document(item.faults):
            document = bench.documents.document(item.stream)
            item = replace(item, faults=resolve(item.faults, document))
        if self._last is not None and not self._unharmed(self._last):
            self._renew()
        listener = self._trace
        listener.clear()
        kind, refusal, escape, cpu_s = guarded_load(
            bench.subject, item, listener.hear if trace else None, bench.watchdog
        )
        execution = Execution(
            kind, listener.depth(kind, refusal), refusal, escape, cpu_s, listener.labels()
        )
        trial = bench.current = self._last = LoadTrial(bench, item, execution, self._pristine)
        return trial

    def _unharmed(self, trial: LoadTrial) -> bool:
        bench = self._bench
        if bench.touched or trial.execution.kind is not ExitKind.REJECTED:
            return False
        try:
            if trial.damages() or trial.holds_more():
                return False
            return trial.digest_after == self._pristine
        except SubjectError:
            return False

    def _renew(self) -> None:
        bench = self._bench
        bench.touched = False
        try:
            guarded_call("resetting a loader", bench.subject.reset, bench.watchdog)
            if self._last is not None and self._last.execution.kind in (
                ExitKind.ACCEPTED,
                ExitKind.REJECTED,
            ):
                return
            # What a crash or an interruption left behind, a reset may not reach.
            if guarded_call("digesting", bench.subject.digest, bench.watchdog) == self._pristine:
                return
        except SubjectError:
            pass
        bench.subject, pristine = _open(self.target, bench.watchdog)
        if pristine != self._pristine:
            raise InfraError(
                f"two fresh loaders of target {self.target.name!r} differ; "
                "make its open() deterministic"
            )


def _open(target: Target, watchdog: Watchdog) -> tuple[Subject, str]:
    try:
        subject = guarded_call("opening a loader", target.open, watchdog)
        return subject, guarded_call("digesting the state", subject.digest, watchdog)
    except SubjectError as error:
        if error.escape.type_name == UsageError.__name__:
            # A target that is made of what somebody typed says so when it is opened.
            raise UsageError(error.escape.message) from error
        raise InfraError(
            f"target {target.name!r} has no working loader: {error}; try `loadfuzz targets`"
        ) from error
