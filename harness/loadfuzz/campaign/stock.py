"""What a campaign on a cluster has to start batches from, and which of it comes next.

A batch gets some dozens of streams and not all: they have to travel, and its worker runs
each of them before it does anything else.  They are drawn by weight.  A stream weighs the
more

- the fewer streams of the corpus share its rarest feature,
- the more new streams came of the batches that had it,
- the fewer batches had it;

and one that the target accepts weighs four times as much: what is refused at some byte
hides all behind that byte from its children, too.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Final

from loadfuzz.campaign.admit import Answer, much_smaller
from loadfuzz.campaign.parcel import Kept
from loadfuzz.feedback.novelty import Features
from loadfuzz.rng import Rng

STREAMS_MAX: Final = 64
"""Streams of one batch: running them takes a worker less than a second."""
BYTES_MAX: Final = 4 << 20
"""Bytes of all of them, but for the first, which may be as long as any input: a thousand batches a
minute then move less than 100 MB/s."""
ACCEPTED_WEIGHT: Final = 4
_BITS: Final = 53


@dataclass(slots=True)
class _Item:
    """One stream."""

    size: int
    features: Features
    accepted: bool
    judged: bool
    sent: int = 0
    bred: int = 0


class Stock:
    """The streams of a campaign, by digest."""

    __slots__ = ("_items", "_names", "_shared", "_sizes")

    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._names: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._shared: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, digest: object) -> bool:
        return digest in self._items

    def add(self, answer: Answer, *, judged: bool = False) -> None:
        """Take in a stream.

        Args:
            answer: what the admission says of it; for one that is here already, its features
                with other numbers.
            judged: oracles have seen it.
        """
        item = self._items.get(answer.digest)
        if item is None:
            self._items[answer.digest] = _Item(
                answer.size, answer.features, answer.accepted, judged
            )
        else:
            self._shared.subtract(item.features)
            item.features = answer.features
        self._shared.update(answer.features)
        self._names.update(answer.names)
        size = self._sizes.get(answer.behaviour, answer.size)
        self._sizes[answer.behaviour] = min(size, answer.size)

    def promising(self, kept: Kept) -> bool:
        """Whether a stream may show something that none here does, by what is said of it:
        whether it does is seen when it is run."""
        if kept.digest in self._items:
            return False
        if not kept.behaviour or not self._names.issuperset(kept.features):
            return True  # one that was kept for its coverage says nothing
        size = self._sizes.get(kept.behaviour)
        # Of a behaviour that nothing new distinguishes one stream is enough.
        return size is not None and much_smaller(len(kept.stream), size)

    def credit(self, digests: Iterable[str], bred: int, *, judged: bool) -> None:
        """A batch that had these streams is done, and ``bred`` new ones came of it.

        Args:
            digests: of the streams.
            bred: new streams.
            judged: oracles have seen all of them there.
        """
        for digest in digests:
            self._items[digest].bred += bred
            self._items[digest].judged |= judged

    def outsiders(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Those that no oracle has seen yet."""
        return tuple(digest for digest in digests if not self._items[digest].judged)

    def draw(self, rng: Rng) -> list[str]:
        """The streams of the next batch: at most :data:`STREAMS_MAX`, each once."""
        # Weighted and without replacement (Efraimidis and Spirakis): the largest of
        # u^(1/weight), each u drawn from (0, 1].
        keyed = sorted(
            (
                (log((rng.bits(_BITS) + 1) / (1 << _BITS)) / self._weight(item), digest)
                for digest, item in self._items.items()
            ),
            reverse=True,
        )
        drawn: list[str] = []
        room = BYTES_MAX
        for _, digest in keyed:
            item = self._items[digest]
            if drawn and item.size > room:
                continue
            drawn.append(digest)
            room -= item.size
            item.sent += 1
            if len(drawn) == STREAMS_MAX:
                break
        return drawn

    def _weight(self, item: _Item) -> float:
        rarest = max(min((self._shared[feature] for feature in item.features), default=1), 1)
        weight = (1 + item.bred) / (rarest * (1 + item.sent))
        return weight * ACCEPTED_WEIGHT if item.accepted else weight
