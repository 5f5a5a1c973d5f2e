"""Every field once with every number that matters, before chance gets to it.

Theory of operation.  Chance spreads over all streams, devices, fields and numbers; a
field that one seed in forty has, in a device of fifteen, waits long for the one number
that its check forgot.  So whenever a stream shows fields that no stream before it had,
the sweep notes for each of them the numbers worth trying: the ends of its type, its
neighbours, and what other fields of the device hold.  Engines take from these, in
random order, until none is left; then chance has it all.

What a field may be can depend on what others are, on a mode most of all.  So a field
gets a few rounds, each on another stream; a round begins when the one before is done.
"""

from bisect import bisect_left
from typing import Final

from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import EXTREMES
from loadfuzz.places import Device, Places, group_of
from loadfuzz.rng import Rng
from savevm.document import Node

OPERATOR: Final = "field-sweep"
PENDING_MAX: Final = 1 << 16
"""Changes that wait; fields that come later than that are left to chance."""
ROUNDS: Final = 3
"""Streams on which each field is tried."""
SEEN_MAX: Final = 1 << 16
"""Fields told apart."""
_NEAR: Final = 4
"""Integers before and behind a field whose values are tried in its place."""


class Sweep:
    """The changes that wait.

    Args:
        rng: decides about their order.
    """

    __slots__ = ("_rng", "_rounds", "_seen")

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._seen: dict[str, int] = {}
        self._rounds: tuple[list[tuple[bytes, Mutation]], ...] = tuple([] for _ in range(ROUNDS))

    def __len__(self) -> int:
        return sum(map(len, self._rounds))

    def add(self, stream: bytes, places: Places) -> None:
        """Take in the fields of a stream that none before it had."""
        for device in places.devices:
            for group in device.groups:
                key = group_of(group[0])
                times = self._seen.get(key, 0)
                if times >= ROUNDS or len(self._seen) >= SEEN_MAX:
                    continue
                self._seen[key] = times + 1
                self._add(stream, device, self._rng.choice(group), self._rounds[times])

    def next(self) -> tuple[bytes, Mutation] | None:
        """A parent and what to change of it; ``None`` when nothing waits."""
        pending = next(filter(None, self._rounds), None)
        if pending is None:
            return None
        at = self._rng.below(len(pending))
        pending[at], pending[-1] = pending[-1], pending[at]
        return pending.pop()

    def _add(
        self, stream: bytes, device: Device, leaf: Node, pending: list[tuple[bytes, Mutation]]
    ) -> None:
        size = leaf.element_size or leaf.size
        start = leaf.start + size * self._rng.below(leaf.size // size)
        before = stream[start : start + size]
        top = (1 << 8 * size) - 1
        old = int.from_bytes(before, "big")
        wanted = [*EXTREMES[size], old + 1, old - 1, old ^ 1, old + 256, 2 * old]
        wanted += [value + more for value in _near(device, leaf) for more in (0, 1)]
        for new in dict.fromkeys(value & top for value in wanted):
            if new != old and len(pending) < PENDING_MAX:
                splice = Splice(start, start + size, new.to_bytes(size, "big"))
                record = Mutation(OPERATOR, leaf.path, (splice,), f"{old:#x}", f"{new:#x}")
                pending.append((stream, record))


def _near(device: Device, leaf: Node) -> list[int]:
    integers = device.integers
    place = bisect_left(integers, leaf.start, key=lambda one: one.start)
    near = integers[max(place - _NEAR, 0) : place + _NEAR + 1]
    found = [one.value for one in near if type(one.value) is int and one is not leaf]
    found += [one.count for one in near if one.element_size]
    return [value for value in found if value >= 0]
