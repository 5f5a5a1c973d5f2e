"""What really happened: the channel on which planted bugs report.

Each bug has a :class:`Canary`, which sets one bit when its code is reached and
another when it is triggered.  The bits belong to the target object and are read
by the bench alone (:class:`loadfuzz.bench.truth.KnowsBugs`).
"""

from collections.abc import Sequence

from loadfuzz.bench.truth import Met


class GroundTruth:
    """The bits of all bugs of one target.

    Args:
        names: of the bugs, in order.
    """

    __slots__ = ("names", "reached", "triggered")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reached = 0
        self.triggered = 0

    def canary(self, name: str) -> "Canary":
        """The canary of the bug of that name.

        Raises:
            ValueError: there is none.
        """
        return Canary(self, 1 << self.names.index(name))

    def take(self) -> Met:
        """What was met since the last call; forgets it."""
        met = Met(self._named(self.reached), self._named(self.triggered))
        self.reached = self.triggered = 0
        return met

    def _named(self, bits: int) -> frozenset[str]:
        return frozenset(name for at, name in enumerate(self.names) if bits >> at & 1)


class Canary:
    """Reports for one bug."""

    __slots__ = ("_bit", "_truth")

    def __init__(self, truth: GroundTruth, bit: int) -> None:
        self._truth = truth
        self._bit = bit

    def reached(self) -> None:
        """The flawed code runs."""
        self._truth.reached |= self._bit

    def triggered(self) -> None:
        """It runs with what makes it go wrong; it is reached, too."""
        self._truth.reached |= self._bit
        self._truth.triggered |= self._bit

    def check(self, wrong: object) -> None:
        """Reached; and triggered if ``wrong`` is true.  Without a branch, which a fuzzer
        that is guided by coverage would see."""
        self._truth.reached |= self._bit
        self._truth.triggered |= self._bit * bool(wrong)
