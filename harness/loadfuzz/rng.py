"""One seed, named children, and only what is stable across Python versions.

Python promises stability of ``getrandbits`` for a given seed, not of
``choice`` or ``shuffle``; so everything here is built on the former.  A child
is derived by name, so that a new consumer of randomness does not shift what
the others draw.
"""

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Rng:
    """A source of reproducible randomness.

    Args:
        seed: any integer.
    """

    __slots__ = ("_getrandbits", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._getrandbits = Random(seed).getrandbits

    def child(self, name: str) -> "Rng":
        """An independent source that depends on our seed and ``name`` only."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return Rng(int.from_bytes(digest, "big"))

    def bits(self, count: int) -> int:
        """``count`` random bits."""
        return self._getrandbits(count)

    def below(self, bound: int) -> int:
        """0 to ``bound - 1``; 0 for a bound of 1 or less.

        The modulo's bias is below 2^-20 for bounds up to 2^44: irrelevant to a
        fuzzer, and one draw per number keeps sequences easy to reason about.
        """
        return self._getrandbits(64) % bound if bound > 1 else 0

    def between(self, low: int, high: int) -> int:
        """``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def chance(self, numerator: int, denominator: int) -> bool:
        """True in ``numerator`` of ``denominator`` cases."""
        return self.below(denominator) < numerator

    def choice(self, items: Sequence[T]) -> T:
        """One of ``items``, which must not be empty."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[int]) -> T:
        """One of ``items`` with probability proportional to its weight."""
        point = self.below(sum(weights))
        for item, weight in zip(items, weights, strict=True):
            if point < weight:
                return item
            point -= weight
        return items[-1]

    def bytes(self, count: int) -> bytes:
        """``count`` random bytes."""
        return self._getrandbits(8 * count).to_bytes(count, "big") if count > 0 else b""
