"""What a behaviour is, and whether one was seen before.

Theory of operation.  An execution shows *features*: which section-level trace
events it had and about how many of each, which device followed which, how deep
it came, and how it ended (errno, place and reason of the refusal, place of the
escape), all without the numbers and names that the stream chose.  An execution
is new when it shows a feature that none before it did.  All of its features
together are its *behaviour*; of each behaviour that was kept, the smallest
input is worth keeping.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from loadfuzz.execution import Execution, ExitKind
from loadfuzz.wording import without_values

FEATURES_MAX: Final = 1 << 16
"""Features told apart; later ones are not new.  The reference shows some
hundreds: this many come from a loader whose messages are unlike each time."""

MEMO_MAX: Final = 1 << 13
"""Places that are remembered; then all are forgotten, which costs only time."""

SEQUENCES_MAX: Final = 1 << 10
"""The same of event sequences, each of some kB.  The reference shows a thousand in tens of
thousands of loads, so that forgetting them costs nothing; eight times as many took a worker an
hour to gather and 30 MB."""

PARTS_MAX: Final = 64
"""Names told apart at one place, such as the fields of one device; beyond that
they are taken for the stream's inventions and are all alike."""

REASONS_MAX: Final = 16
"""Reasons told apart at one place: a loader has a handful there, and further ones are what the
stream made it say."""

Features: TypeAlias = tuple[int, ...]
"""Features of an execution as small numbers, each once; the same behaviour has
them in the same order."""

OVERRUNS: Final = frozenset({ExitKind.TIMED_OUT, ExitKind.OUT_OF_MEMORY})
"""How a load ends that takes more time or memory than it may have."""

_STREAM_WORDS: Final = re.compile(r"'[^']*'|\"[^\"]*\"|-?0x[0-9a-fA-F]+|-?\d+")
_REASON_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Observation:
    """What feedback says about one execution.

    Attributes:
        features: all it showed.
        fresh: those that nothing before it had shown.
        telling: among those is an event, a depth or a verdict, and not just
            another order or number of known events.
        accepted: the loader took the input.
        overran: the load took more time or memory than it may have; what is bred from such an
            input does so, too, nearly always.
    """

    features: Features
    fresh: Features
    telling: bool
    accepted: bool
    overran: bool = False

    @property
    def new(self) -> bool:
        """Whether it showed something new."""
        return bool(self.fresh)


class Novelty:
    """Remembers every feature that was ever shown.

    Attributes:
        hits: executions that showed each feature, by its number.
    """

    __slots__ = (
        "_devices",
        "_events",
        "_names",
        "_numbers",
        "_parts",
        "_places",
        "_reasons",
        "_seen",
        "_variations",
        "hits",
    )

    def __init__(self) -> None:
        self.hits: list[int] = []
        self._names: list[str] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        self._events: dict[tuple[str, ...], Features] = {}
        self._devices: set[str] = set()
        self._parts: dict[str, set[str]] = {}
        self._reasons: dict[tuple[int, str], set[str]] = {}
        self._places: dict[tuple[str, ...], str] = {}
        self._seen: set[str] = set()
        self._variations: set[int] = set()

    def observe(self, execution: Execution) -> Observation:
        """Take in one execution."""
        known = len(self.hits)
        features = self._events_of(execution)
        for number in (self._number(("depth", execution.depth)), self._verdict_of(execution)):
            if number is not None:
                features = (*features, number)
        hits = self.hits
        for feature in features:
            hits[feature] += 1
        fresh: Features = ()
        if len(hits) > known:
            fresh = tuple(feature for feature in features if feature >= known)
        telling = any(feature not in self._variations for feature in fresh)
        kind = execution.kind
        return Observation(features, fresh, telling, kind is ExitKind.ACCEPTED, kind in OVERRUNS)

    def names(self, features: Features) -> tuple[str, ...]:
        """Names of features that are the same in every process that shows them."""
        return tuple(self._names[feature] for feature in features)

    def behaviour(self, features: Features) -> str:
        """Name of all these features together."""
        return _name_of(sorted(self.names(features)))

    def rarity(self, features: Features) -> int:
        """Executions that showed the rarest of ``features``."""
        hits = self.hits
        return min((hits[feature] for feature in features), default=0)

    def _number(self, feature: tuple[object, ...]) -> int | None:
        number = self._numbers.get(feature)
        if number is None and len(self.hits) < FEATURES_MAX:
            number = self._numbers[feature] = len(self.hits)
            self.hits.append(0)
            self._names.append(_name_of(feature))
        return number

    def _events_of(self, execution: Execution) -> Features:
        events = execution.events
        features = self._events.get(events)
        if features is None:
            if len(self._events) >= SEQUENCES_MAX:
                self._events.clear()
            features = self._events[events] = self._count(events)
        return features

    def _count(self, events: tuple[str, ...]) -> Features:
        counts: dict[str, int] = {}
        found: set[int] = set()
        before = ""
        for event in events:
            counts[event] = counts.get(event, 0) + 1
            if event.startswith("vmstate_load "):
                self._devices.add(event.split(" ", 2)[1])
                number = self._number(("order", before, event))
                if number is not None:
                    found.add(number)
                    self._variations.add(number)
                before = event
        for event, count in counts.items():
            # 1, 2, 3-4, 5-8, ...: a loop that goes round once more is no news.
            number = self._number(("count", event, (count - 1).bit_length()))
            if number is not None:
                found.add(number)
                if event in self._seen:
                    self._variations.add(number)
                self._seen.add(event)
        return tuple(sorted(found))

    def _verdict_of(self, execution: Execution) -> int | None:
        refusal, escape = execution.refusal, execution.escape
        if refusal is not None:
            place = self._place(refusal.path)
            reason = without_values(refusal.text.rpartition(": ")[2])[:_REASON_MAX]
            key = (refusal.errno, place)
            known = self._reasons.get(key, set())
            if len(known) < REASONS_MAX and len(self._reasons) < MEMO_MAX:
                known.add(reason)
                self._reasons[key] = known
            shape: tuple[object, ...] = (
                refusal.errno, place, reason if reason in known else "?",
            )  # fmt: skip
        elif escape is not None:
            where = escape.frames[-1] if escape.frames else ""
            shape = (execution.kind, escape.type_name, where)
        else:
            shape = (execution.kind,)
        return self._number(("verdict", *shape))

    def _place(self, path: tuple[str, ...]) -> str:
        place = self._places.get(path)
        if place is None:
            if len(self._places) >= MEMO_MAX:
                self._places.clear()
            place = self._find_place(path)
            if "?" not in place:  # what is unknown now may be known later
                self._places[path] = place
        return place

    def _find_place(self, path: tuple[str, ...]) -> str:
        # Any part may be the stream's invention: an unknown device, a subsection or RAM block
        # that is not there. A device is known once it was loaded; of the rest, each place has
        # room for so many parts and no more.
        place = ""
        for at, part in enumerate(path):
            name = _STREAM_WORDS.sub("#", part)
            if at == 0 or place == "command":
                inside = part in self._devices or name in _PARTS
            else:
                known = self._parts.setdefault(place, set())
                inside = name in known or len(known) < PARTS_MAX
                if inside:
                    known.add(name)
            place = f"{place}/{name if inside else '?'}" if at else name if inside else "?"
        return place


def _name_of(thing: object) -> str:
    return sha256(repr(thing).encode("utf-8", "backslashreplace")).hexdigest()[:12]


_PARTS: Final = frozenset({"header", "configuration", "command", "vmdesc"})
