"""Makes children: the parent's tree from the cache, the draws from one source.

Theory of operation.  A tree costs many loads, so it is made once per parent and
kept, and making trees has a budget: every child earns a part of its size, every
new tree costs the size of its stream.  A parent that cannot be afforded lends
its parts to the parent before it instead; since trees are kept, its turn comes.

Total: whatever happens inside an operator, a child comes out.  Atheris hangs
forever when a Python mutator raises or returns too much, and one bad operator
must not end a campaign of any engine.
"""

from collections.abc import Callable, Iterable
from typing import Final

from loadfuzz.abc import Format, Mutable
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.executors.documents import Documents
from loadfuzz.mutation import splice
from loadfuzz.mutators import sweep
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.mutators.sweep import Sweep
from loadfuzz.places import Places
from loadfuzz.rng import Rng

EARNED: Final = 128
"""One byte in so many is earned: on the reference a tree costs some ten loads,
so that making trees stays well below the cost of the loads themselves."""

FIRST_SWEEP_SHARE: Final = (3, 4)
"""Share of children that come from the sweep while fields wait that nobody has tried."""

SWEEP_SHARE: Final = (1, 2)
"""The same while only fields wait that were tried on another stream."""

PRIMED_MAX: Final = 256
"""Streams whose trees are made before the first child."""

CREDIT_MAX: Final = 1 << 18
"""Bytes of streams whose trees may be made in advance, and the credit to begin
with: the seeds of a campaign get theirs at once."""


class Breeder:
    """Makes one child after another.

    Args:
        target: parses.
        documents: trees of parents.
        stack: the operators.
        rng: decides everything.
        size_max: no child is longer; may be raised later.
        fault: hears what went wrong in an operator.
    """

    __slots__ = (
        "_barren",
        "_credit",
        "_documents",
        "_fault",
        "_last",
        "_rng",
        "_stack",
        "_sweep",
        "_target",
        "size_max",
    )

    def __init__(
        self,
        target: Format,
        documents: Documents,
        stack: MutationStack,
        rng: Rng,
        size_max: int,
        fault: Callable[[str, BaseException], None],
    ) -> None:
        self._target = target
        self._documents = documents
        self._stack = stack
        self._rng = rng
        self._fault = fault
        self._credit = CREDIT_MAX
        self._sweep = Sweep(
            rng.child("sweep"),
            fields=stack.allows(sweep.OPERATOR),
            cuts=stack.allows(sweep.CUT_OPERATOR),
        )
        self._last: bytes | None = None
        self._barren: Places | None = None
        self.size_max = size_max

    def prime(self, streams: Iterable[bytes]) -> None:
        """Have the sweep know the fields of these streams, the shortest first: a field that
        several have is tried where a load is quickest."""
        for stream in sorted(streams, key=len)[:PRIMED_MAX]:
            try:
                self._sweep.add(stream, self._documents.places(stream))
            except Exception as error:
                self._fault("looking at a stream", error)

    def child(
        self, parent: bytes, donor: bytes, size_max: int | None = None
    ) -> tuple[bytes, Lineage]:
        """A changed stream, and how it was changed.

        Args:
            parent: any bytes.
            donor: another stream to take parts from.
            size_max: a smaller bound for this child.

        Returns:
            The child and its lineage, which names the parent it really has; the
            parent, cut to size, where no operator found a place or one failed.
        """
        bound = self.size_max if size_max is None else min(size_max, self.size_max)
        try:
            return self._child(parent, donor, bound)
        except Exception as error:
            self._fault("mutating", error)
        return parent[:bound], NO_LINEAGE

    def _child(self, parent: bytes, donor: bytes, bound: int) -> tuple[bytes, Lineage]:
        share = FIRST_SWEEP_SHARE if self._sweep.first_round else SWEEP_SHARE
        swept = self._sweep.next() if self._rng.chance(*share) else None
        if swept is not None:
            parent, mutation = swept
            child = splice(parent, mutation.splices)
            if len(child) <= bound:
                self._earn(child)
                return child, Lineage(parent, (mutation,))
        known = parent in self._documents
        if not known and not self._affords(parent) and self._last is not None:
            parent, donor, known = self._last, parent, True
        places = self._documents.places(parent)
        self._last = parent
        if not known:
            self._sweep.add(parent, places)
        # A donor's tree is used where there is one; none is made for it.
        donated = self._documents.places(donor) if donor in self._documents else None

        def again(stream: bytes) -> Mutable:
            if len(stream) == len(parent):
                # Every span is where it was; what a leaf says of its old value is not used.
                return Mutable(stream, places, donor, bound, donated)
            if self._affords(stream):
                return Mutable(stream, Places(self._target.parse(stream)), donor, bound, donated)
            return Mutable(stream, self._no_places(), donor, bound)

        subject = Mutable(parent, places, donor, bound, donated)
        child, mutations = self._stack.child(subject, self._rng, again)
        if len(child) > bound:
            raise ValueError(f"a child of {len(child)} bytes where {bound} are allowed")
        self._earn(child)
        return child, Lineage(parent, mutations)

    def _earn(self, child: bytes) -> None:
        self._credit = min(self._credit + len(child) // EARNED + 1, CREDIT_MAX)

    def _affords(self, stream: bytes) -> bool:
        # Debts are allowed, or a stream longer than the credit would never get its turn.
        if self._credit <= 0:
            return False
        self._credit -= len(stream)
        return True

    def _no_places(self) -> Places:
        """For operators on raw bytes, which need none."""
        if self._barren is None:
            self._barren = Places(self._target.parse(b""))
        return self._barren
