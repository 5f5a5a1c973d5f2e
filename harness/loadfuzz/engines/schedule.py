"""Which stream to mutate next.

The scheme, all of it.  Of eight draws

- five go to a stream that was accepted: what is refused at some byte hides all
  behind that byte from its children too, so most of them would teach nothing;
- one goes to one of the entries that were added last, since what was new a
  moment ago is least explored;
- one goes to any kind of entry;
- one goes to an entry drawn blindly, so that none is ever left out.

The first and third are tournaments: of four entries drawn at random, the one
wins whose rarest feature (of those that were new with it, if any were) the
fewest executions have shown, for what it costs: a load takes longer the longer
its stream, so many more of short streams fit into the same time.  Size stands
for time, as its root, because pages are cheap and fields are not, and because a
clock would make every run another.  Of equals the one wins that was mutated least.
A draw costs the same however large the corpus is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

from loadfuzz.feedback.novelty import Features, Novelty, Observation
from loadfuzz.rng import Rng

ENTRIES_MAX: Final = 20_000
"""Entries mutated from; later ones are kept on disk only."""

RECENT: Final = 8
TOURNAMENT: Final = 4

BASE_SIZE: Final = 512
"""Bytes that a load costs before its first one."""

SMALLER: Final = (3, 4)
"""An input takes the place of another with the same behaviour when it has at
most this part of its size: a byte less is not worth the writing."""


@dataclass(slots=True, eq=False)
class Entry:
    """A stream to mutate.

    Attributes:
        stream: its bytes.
        digest: its content address.
        rare: the features by which its rarity is measured.
        ours: it was added by this worker, not given.
        drawn: times it was mutated.
    """

    stream: bytes
    digest: str
    rare: Features
    ours: bool
    drawn: int = 0

    @property
    def cost(self) -> int:
        """Of a load, in no unit."""
        return isqrt(BASE_SIZE + len(self.stream))


class Schedule:
    """The streams of one worker.

    Args:
        novelty: knows how rare each feature is.

    Attributes:
        entries: all, in the order in which they were added.
        accepted: those that the loader took.
    """

    __slots__ = ("_by_behaviour", "_novelty", "accepted", "entries")

    def __init__(self, novelty: Novelty) -> None:
        self.entries: list[Entry] = []
        self.accepted: list[Entry] = []
        self._novelty = novelty
        self._by_behaviour: dict[Features, Entry] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def smaller(self, features: Features, size: int) -> Entry | None:
        """The entry that an input of this behaviour and size should replace."""
        entry = self._by_behaviour.get(features)
        if entry is None or not entry.ours:
            return None
        part, whole = SMALLER
        return entry if size * whole <= len(entry.stream) * part else None

    def add(self, stream: bytes, digest: str, seen: Observation, *, ours: bool) -> None:
        """Take in a stream, if there is room.

        Args:
            stream: its bytes.
            digest: its content address.
            seen: what feedback said about it.
            ours: it was added by this worker, not given.
        """
        if len(self.entries) >= ENTRIES_MAX:
            return
        entry = Entry(stream, digest, seen.fresh or seen.features, ours)
        self.entries.append(entry)
        if seen.accepted:
            self.accepted.append(entry)
        self._by_behaviour.setdefault(seen.features, entry)

    def draw(self, rng: Rng) -> Entry:
        """The entry to mutate next; there must be one."""
        entries = self.entries
        way = rng.bits(3)
        if way < 5:
            entry = self._tournament(self.accepted or entries, rng)
        elif way == 5:
            entry = entries[len(entries) - 1 - rng.below(min(RECENT, len(entries)))]
        elif way == 6:
            entry = self._tournament(entries, rng)
        else:
            entry = rng.choice(entries)
        entry.drawn += 1
        return entry

    def _tournament(self, entries: Sequence[Entry], rng: Rng) -> Entry:
        rarity = self._novelty.rarity
        return min(
            (rng.choice(entries) for _ in range(TOURNAMENT)),
            key=lambda entry: (rarity(entry.rare) * entry.cost, entry.drawn),
        )
