"""All interfaces on one page: read this first to write a target, mutator,
oracle or reporter.

A :class:`Target` describes what is fuzzed and opens a :class:`Subject`, the
live loader.  An executor feeds it :class:`~loadfuzz.inputs.Input` and makes a
:class:`Trial` of each: what happened, and the means to look closer.  A loader that
is no Python, or must not share our process, has a :class:`RemoteTarget` instead,
which starts an :class:`Executor` of its own.  An
:class:`Oracle` judges trials; a :class:`Mutator` makes the next input; a
:class:`Reporter` hears the events.  Targets are found by the entry point
``loadfuzz.targets``, ours as anyone else's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from loadfuzz.events import Event
from loadfuzz.execution import Execution, Outcome
from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Delivery, Input, Seed
from loadfuzz.mutation import Mutation
from loadfuzz.places import Places
from loadfuzz.rng import Rng
from savevm.document import Document
from savevm.trace import Trace


class Subject(Protocol):
    """A live loader in this process, with a machine of its own.

    It may keep state from load to load, as a loader does; :meth:`reset` makes
    it as new.  Not thread-safe, and not used from two threads.
    """

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Load a stream.

        Args:
            stream: all of its bytes.
            delivery: the pieces in which the loader gets them.
            trace: hears trace events of sections (fields need not be traced).

        Raises:
            savevm.LoadError: the stream is refused.  Anything else that leaves
                is a finding.
        """

    def reset(self) -> None:
        """Back to how :meth:`Target.open` made it."""

    def digest(self) -> str:
        """Equal for equal state; all state that a load can touch counts.

        May be made of parts, ``name=value`` with spaces between them, so that an
        alarm can name the part that differs; see :mod:`loadfuzz.oracles.digests`.
        """

    def save(self) -> bytes:
        """The present state as a stream."""

    def check_invariants(self) -> list[str]:
        """What is impossible about the present state; empty when all is well."""

    def step(self, count: int) -> None:
        """Let the guest run ``count`` steps."""


class Format(Protocol):
    """What every target is, wherever its loader runs: streams to start from, and what
    stands where in one.

    Attributes:
        name: as on the command line.
        summary: one line for ``loadfuzz targets``.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...

    def seeds(self) -> Iterable[Seed]:
        """Streams to start from; each must be accepted by the loader."""

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document, with the target's own descriptions."""


class Target(Format, Protocol):
    """What is fuzzed.  Cheap to make; nothing happens before :meth:`open`.

    Attributes:
        instrument: top-level packages that Atheris instruments.
    """

    @property
    def instrument(self) -> Sequence[str]: ...

    def open(self) -> Subject:
        """A loader with a fresh machine."""


class Executor(Protocol):
    """A live loader in a process of its own, which may keep state from load to load.

    It lives within :meth:`RemoteTarget.executor` and is used by one task at a time.
    """

    @property
    def generation(self) -> int:
        """Another number for each process; an executor may take a fresh one by itself, at
        the beginning of :meth:`execute`."""

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """Load a stream, in the state that the loads before have left.

        A loader that dies, hangs or runs out of memory is a verdict; until
        :meth:`renew` nothing else can be executed.  Cancellation leaves a loader that
        is only good for being renewed.

        Args:
            stream: all of its bytes.
            closely: what is accepted is looked at further: its guest runs, it is saved
                and loaded again, and trace events are recorded.

        Raises:
            InfraError: nothing can be said about the stream: the loader was killed
                from outside, or cannot be spoken to.
        """

    async def renew(self) -> None:
        """A fresh process, in place of this one.

        Raises:
            UsageError: the loader cannot be started so.
            InfraError: it cannot be started any more.
        """


@runtime_checkable
class HasRemarks(Protocol):
    """An executor of which people should know something: optional."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence each, for the event log."""


@runtime_checkable
class RemoteTarget(Format, Protocol):
    """What is fuzzed in a process of its own: a QEMU, a command.

    Attributes:
        stateful: a load may find what those before it have left, so that a failure may
            take a sequence of streams; otherwise each has a process of its own.
    """

    @property
    def stateful(self) -> bool: ...

    def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AbstractAsyncContextManager[Executor]:
        """A loader, started, for the duration of an ``async with`` block.

        However the block is left, no process of it remains.

        Args:
            folder: for its files; it exists, and is nobody else's.
            load_timeout_s: CPU seconds after which a load counts as a hang.
            explain: find out where a load hangs, which may take seconds.
            copies: its processes may be copies of one another, if that is quicker; else each
                has a layout of memory of its own, as who says how often a failure comes again
                needs it.

        Raises:
            UsageError: the loader cannot be started so.
            InfraError: something of ours failed.
        """


@runtime_checkable
class BringsScript(Protocol):
    """A remote target whose findings can be rerun without us: optional."""

    def script(self, finding: Finding) -> Mapping[str, bytes]:
        """Files for the finding's folder, by name.

        One named ``reproduce.sh`` is the script; the report tells people of it.  Asked once
        per finding, where an event loop runs: it is not to start one.  Whatever it raises is
        reported, and the finding is kept without these files.
        """


@runtime_checkable
class NeedsSlots(Protocol):
    """A target whose loader takes much of a machine, so that a cluster should run only so many
    at a time on each: optional."""

    @property
    def slot(self) -> str:
        """Name of the resource that workers of a cluster declare so many of, such as ``QEMU``;
        a batch takes one.  Where no worker declares any, batches run anywhere."""


@runtime_checkable
class HasVariants(Protocol):
    """A target that comes in several forms, ``NAME:VARIANT``: optional."""

    def variant(self, name: str) -> "Target | RemoteTarget":
        """The form of that name; its own name is ``NAME:VARIANT``.

        Raises:
            KeyError: there is none.
        """

    def variants(self) -> Sequence[str]:
        """Names of all forms."""


@runtime_checkable
class FitsSeeds(Protocol):
    """A target that can suit other streams than its own: optional."""

    def for_seeds(self, seeds: Sequence[Seed]) -> Target:
        """The target to fuzz ``seeds`` with: itself, or another one.

        Args:
            seeds: what people gave; the origin of each is a file that has it.

        Returns:
            A target whose name is ``NAME@FILE``, NAME being this target's and
            FILE the origin of the seed that decided; given that seed alone, in
            another process, ``for_seeds`` must return the same target again.
        """


@runtime_checkable
class HasTwin(Protocol):
    """A target that knows a second loader for the same streams: optional."""

    def twin(self) -> Target:
        """Another implementation, or another release of this one: whatever the
        stream, it must come to the same verdict and the same state."""


@runtime_checkable
class ChoosesOperators(Protocol):
    """A target that is after some kinds of change only: optional."""

    def operators(self) -> Mapping[str, int]:
        """Factors on the operators' own weights, by name; operators not named are not
        used.  A name that ends in ``*`` stands for all that begin so."""


@runtime_checkable
class Accountable(Protocol):
    """A subject that can say what it holds and what is broken: optional."""

    def resources(self) -> Mapping[str, int]:
        """How many there are now of what a load must not pile up, by name:
        handlers, timers, heap blocks, threads, open files.  Cheap: asked after every
        execution."""

    def damages(self) -> Sequence[str]:
        """What memory a load has overwritten that was not its own, by name of
        the neighbour; empty when all redzones are whole.  Cheap: asked after
        every execution."""


@runtime_checkable
class TakesFaults(Protocol):
    """A subject around which more can go wrong than the bytes: optional."""

    @property
    def layers(self) -> frozenset[Layer]:
        """What faults can be done to; never empty."""

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        """As :meth:`Subject.load`, while ``faults`` happen.

        Args:
            stream, delivery, trace: as there.
            faults: places in the stream are resolved to bytes.  One of another layer, and
                one whose place is never reached, strikes nothing.

        Raises:
            savevm.LoadError: the load failed cleanly, by whatever reason; cancelled, too.
        """

    def struck(self) -> Sequence[Fault]:
        """The faults of the last :meth:`load_under` that did happen, in order.

        Those of the transport are given with the byte before which they struck; a deadline
        that passed is a ``stall`` that must be rejected (as from
        :class:`loadfuzz.faults.wire.Injector`).
        """


@runtime_checkable
class TellsViolations(Protocol):
    """A subject that is more than a loader, and judges by itself what it has promised beyond
    what a load shows, such as that never two machines run: optional."""

    def violations(self) -> Sequence[Violation]:
        """The promises that the last load broke, the one to report first; each names its oracle.
        Cheap: asked after every execution."""


@runtime_checkable
class NamesFaultPlaces(Protocol):
    """A subject whose faults strike at places with names: optional."""

    def fault_places(self) -> Mapping[PlaceKind, Sequence[str]]:
        """Names to draw from, by kind of place: ``disk0/goto``, ``nic/post_load``."""


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What came of letting the guest run after a load.

    Attributes:
        faults_loaded: what was impossible about the state as loaded.
        faults_ran: what was impossible after the steps.
        saved: the state after the steps, as a stream.
    """

    faults_loaded: tuple[str, ...]
    faults_ran: tuple[str, ...]
    saved: bytes


@dataclass(frozen=True, slots=True)
class Growth:
    """What piles up when one stream is loaded again and again.

    Attributes:
        piled_up: names of resources, each with how many more every load leaves
            behind, where that is not 0.
        damages: as :meth:`Accountable.damages` after the loads.
    """

    piled_up: tuple[tuple[str, int], ...]
    damages: tuple[str, ...]


class Trial(Protocol):
    """One input and what the target did with it, for oracles to judge.

    Facts that cost nothing are attributes; what costs another load is a
    method, computed when first asked for and kept.
    """

    @property
    def target(self) -> Target: ...
    @property
    def input(self) -> Input: ...
    @property
    def execution(self) -> Execution: ...
    @property
    def digest_before(self) -> str:
        """Digest of the subject before the load."""

    @property
    def digest_after(self) -> str:
        """Digest of the subject after the load."""

    def document(self) -> Document:
        """The input's tree."""

    def saved(self) -> bytes:
        """What the subject saves after the load."""

    def faults(self) -> tuple[str, ...]:
        """What is impossible about the state as loaded
        (:meth:`Subject.check_invariants`), before anything else was done to it."""

    def damages(self) -> tuple[str, ...]:
        """What the load broke (:meth:`Accountable.damages`); none for a subject
        that cannot tell."""

    def struck(self) -> tuple[Fault, ...]:
        """The faults of the input that did happen (:meth:`TakesFaults.struck`)."""

    def violations(self) -> tuple[Violation, ...]:
        """What the subject says it broke (:meth:`TellsViolations.violations`)."""

    def holds_more(self) -> bool:
        """Whether after the load there is more of anything that the subject counts
        (:meth:`Accountable.resources`) than it began with."""

    def guest_run(self, steps: int) -> GuestRun:
        """Let the guest run on from the loaded state, and look again.  For an
        accepted input only."""

    def repeat(self, stream: bytes, delivery: Delivery) -> Outcome:
        """Load ``stream`` into a fresh subject, delivered in another way."""

    def after(self, streams: Sequence[bytes]) -> Outcome:
        """Load ``streams`` into a fresh subject, whatever becomes of them, and
        then the input: what that came to."""

    def at_start(self) -> bytes:
        """What a fresh subject saves."""

    def peak_bytes(self, allowed: int) -> int:
        """Memory that Python took at the peak of loading the input into a fresh
        subject, beyond what it had before; 0 when that was certainly no more than
        ``allowed`` bytes."""

    def growth(self) -> "Growth | None":
        """What piles up when the input is loaded several times into one subject;
        ``None`` for a subject that cannot tell."""

    def at_twin(self) -> Outcome | None:
        """The input at a fresh subject of :meth:`HasTwin.twin`; ``None`` for a
        target without one.  Compare it with :meth:`repeat`."""

    def reload(self, stream: bytes) -> tuple[Outcome, bytes]:
        """Load ``stream`` into a fresh subject and save it again (``b""`` if refused)."""


class Cost(StrEnum):
    """How often an oracle is asked."""

    CHEAP = "every execution"
    DEAR = "everything new and a sampled share"
    DEAREST = "every fourth of those that dear ones see"


@dataclass(frozen=True, slots=True)
class Oracle:
    """A promise and the function that checks it.

    Attributes:
        name: as in reports.
        judge: pure; ``None`` when the promise was kept or does not apply.
        cost: cheap ones see every execution.
        promise: one line: what a good loader does.
        quick: of a dear oracle the part that costs nothing and sees every
            execution; ``judge`` includes it.
        cost_refused: the same where the load was refused, ``None`` for ``cost``: most
            loads are, and a refusal has less to tell.
    """

    name: str
    judge: Callable[[Trial], Violation | None]
    cost: Cost
    promise: str
    quick: Callable[[Trial], Violation | None] | None = None
    cost_refused: Cost | None = None


@dataclass(frozen=True, slots=True)
class Mutable:
    """A stream that is about to be changed.

    Attributes:
        stream: its bytes.
        places: what of its tree can be changed, found once per stream.
        donor: another stream of the corpus to take parts from.
        size_max: the child may not be longer.
        donor_places: what of the donor's tree can be taken, where that is known.
    """

    stream: bytes
    places: Places
    donor: bytes
    size_max: int
    donor_places: Places | None = None


class Mutator(Protocol):
    """One operator.  Total: any stream in, a mutation or ``None`` out, never an
    exception, never a child beyond ``size_max``."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> int:
        """How often it is drawn, relative to the others."""

    def mutate(self, subject: Mutable, rng: Rng) -> Mutation | None:
        """A change, or ``None`` where this stream offers no place for it."""


class Reporter(Protocol):
    """Hears every event of a campaign, in order, in the supervisor's process."""

    def start(self) -> None:
        """Before the first event."""

    def handle(self, event: Event) -> None:
        """One event.  Must not block."""

    def stop(self) -> None:
        """After the last event, also when the campaign failed."""
