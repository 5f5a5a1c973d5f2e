"""Every field once with every number that matters, before chance gets to it.

Theory of operation.  Chance spreads over all streams, devices, fields and numbers; a
field that one seed in forty has, in a device of fifteen, waits long for the one number
that its check forgot.  So whenever a stream shows fields that no stream before it had,
the sweep notes for each of them the numbers worth trying: the ends of its type, its
neighbours, and what other fields of the device hold; and that the stream may end where
the field begins.  Of a text or another buffer it notes few contents: nothing in it, no end
of it, another first byte.  Engines take from these, in random order, until none is left;
then chance has it all.

What a field may be can depend on what others are, on a mode most of all.  So a field
gets a few rounds, each on another stream; a round begins when the one before is done.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import EXTREMES
from loadfuzz.mutators.operator import shown
from loadfuzz.places import Device, Places, group_of
from loadfuzz.rng import Rng
from savevm.document import Node, Role

OPERATOR: Final = "field-sweep"
CUT_OPERATOR: Final = "stream-cut-sweep"
PENDING_MAX: Final = 1 << 16
"""Changes that wait; fields that come later than that are left to chance."""
ROUNDS: Final = 3
"""Streams on which each field is tried."""
SEEN_MAX: Final = 1 << 16
"""Fields told apart."""
CONTENT_MAX: Final = 4096
"""Bytes of a text or buffer that is tried with other contents throughout; of a longer one only
the first byte is changed, for each content waits as a whole."""
_SPOKEN: Final = (
    Role.VERSION_ID,
    Role.SUBSECTION_VERSION,
    Role.INSTANCE_ID,
    Role.SECTION_ID,
    Role.FOOTER_ID,
    Role.VMDESC_SIZE,
    Role.RAM_LENGTH,
    Role.COMMAND_LENGTH,
)
"""Numbers that speak of the stream and not of a device; tried on one stream only."""
_VERSIONS: Final = (1, 3, 0x100, 0x101, 0x102, 0x0100_0001, 0x1000_0000)
"""For them, beside the ends of their type: versions, some with bits above the eighth."""
_NEAR: Final = 4
"""Integers before and behind a field whose values are tried in its place."""


class Sweep:
    """The changes that wait.

    Args:
        rng: decides about their order.
        fields: try the values of fields.
        cuts: end streams where fields begin.
    """

    __slots__ = ("_cuts", "_fields", "_rng", "_rounds", "_seen")

    def __init__(self, rng: Rng, *, fields: bool = True, cuts: bool = True) -> None:
        self._rng = rng
        self._fields = fields
        self._cuts = cuts
        self._seen: dict[str, int] = {}
        self._rounds: tuple[list[tuple[bytes, Mutation]], ...] = tuple([] for _ in range(ROUNDS))

    def __len__(self) -> int:
        return sum(map(len, self._rounds))

    @property
    def first_round(self) -> bool:
        """Whether there are fields that were not tried on any stream yet."""
        return bool(self._rounds[0])

    def add(self, stream: bytes, places: Places) -> None:
        """Take in the fields of a stream that none before it had."""
        if self._fields:
            self._add_fields(stream, places)
        if self._cuts:
            self._add_cuts(stream, places)

    def _add_fields(self, stream: bytes, places: Places) -> None:
        for device in places.devices:
            for group in device.groups:
                key = group_of(group[0])
                times = self._seen.get(key, 0)
                if times >= ROUNDS or len(self._seen) >= SEEN_MAX:
                    continue
                self._seen[key] = times + 1
                leaf = self._rng.choice(group)
                self._add(stream, leaf, _near(device, leaf), self._rounds[times])
        for leaf in places.values:
            if (leaf.element_size or leaf.size) in EXTREMES:
                continue
            key = group_of(leaf)
            times = self._seen.get(key, 0)
            if times < ROUNDS and len(self._seen) < SEEN_MAX:
                self._seen[key] = times + 1
                _add_contents(stream, leaf, self._rounds[times])
        for role in _SPOKEN:
            for leaf in places.of(role):
                key = group_of(leaf)
                if leaf.size in EXTREMES and key not in self._seen and len(self._seen) < SEEN_MAX:
                    self._seen[key] = ROUNDS
                    self._add(stream, leaf, _VERSIONS, self._rounds[0])

    def _add_cuts(self, stream: bytes, places: Places) -> None:
        for leaves in places.by_role.values():
            for leaf in leaves:
                key = "cut " + group_of(leaf)
                if key not in self._seen and len(self._seen) < SEEN_MAX and leaf.start:
                    self._seen[key] = ROUNDS
                    cut = Splice(leaf.start, len(stream), b"")
                    said = f"{len(stream) - leaf.start} bytes from {leaf.start:#x}"
                    record = Mutation(CUT_OPERATOR, leaf.path, (cut,), said, "")
                    if len(self._rounds[0]) < PENDING_MAX:
                        self._rounds[0].append((stream, record))

    def next(self) -> tuple[bytes, Mutation] | None:
        """A parent and what to change of it; ``None`` when nothing waits."""
        pending = next(filter(None, self._rounds), None)
        if pending is None:
            return None
        at = self._rng.below(len(pending))
        pending[at], pending[-1] = pending[-1], pending[at]
        return pending.pop()

    def _add(
        self,
        stream: bytes,
        leaf: Node,
        near: Iterable[int],
        pending: list[tuple[bytes, Mutation]],
    ) -> None:
        size = leaf.element_size or leaf.size
        start = leaf.start + size * self._rng.below(leaf.size // size)
        before = stream[start : start + size]
        top = (1 << 8 * size) - 1
        old = int.from_bytes(before, "big")
        wanted = [*EXTREMES[size], old + 1, old - 1, old ^ 1, old + 256, 2 * old]
        wanted += [value + more for value in near for more in (0, 1)]
        for new in dict.fromkeys(value & top for value in wanted):
            if new != old and len(pending) < PENDING_MAX:
                splice = Splice(start, start + size, new.to_bytes(size, "big"))
                record = Mutation(OPERATOR, leaf.path, (splice,), f"{old:#x}", f"{new:#x}")
                pending.append((stream, record))


def _add_contents(stream: bytes, leaf: Node, pending: list[tuple[bytes, Mutation]]) -> None:
    """Of what is no number: other contents of the same size."""
    before = stream[leaf.start : leaf.end]
    first = bytes([before[0] ^ 1]) + before[1:]
    wanted = [first]
    if len(before) <= CONTENT_MAX:
        wanted += [bytes(len(before)), b"\xff" * len(before), before.replace(b"\0", b"A")]
    for new in dict.fromkeys(wanted):
        if new != before and len(pending) < PENDING_MAX:
            splice = Splice(leaf.start, leaf.end, new)
            record = Mutation(OPERATOR, leaf.path, (splice,), shown(before), shown(new))
            pending.append((stream, record))


def _near(device: Device, leaf: Node) -> list[int]:
    integers = device.integers
    place = bisect_left(integers, leaf.start, key=lambda one: one.start)
    near = integers[max(place - _NEAR, 0) : place + _NEAR + 1]
    found = [one.value for one in near if type(one.value) is int and one is not leaf]
    found += [one.count for one in near if one.element_size]
    return [value for value in found if value >= 0]
