"""Where decisions come from: a byte string that says them, and chance behind its end.

:class:`loadfuzz.rng.Rng` is such a source, too.
"""

from typing import Final, Protocol

from loadfuzz.rng import Rng

BYTE_VALUES: Final = 256


class Choices(Protocol):
    """Decides."""

    def below(self, bound: int) -> int:
        """0 to ``bound - 1``; 0 for a bound of 1 or less, which is no decision."""


class ByteChoices:
    """Each byte is a decision, for as long as there are bytes.

    Args:
        data: the decisions, a byte each.
        seed: of those behind its end; 0 for "always the first".
    """

    __slots__ = ("_at", "_data", "_tail")

    def __init__(self, data: bytes, seed: int = 0) -> None:
        self._data = data
        self._at = 0
        self._tail = Rng(seed) if seed else None

    def below(self, bound: int) -> int:
        """See :meth:`Choices.below`.  One byte cannot choose among more than 256."""
        if bound <= 1:
            return 0
        at = self._at
        if at < len(self._data):
            self._at = at + 1
            return self._data[at] % min(bound, BYTE_VALUES)
        return self._tail.below(bound) if self._tail is not None else 0
