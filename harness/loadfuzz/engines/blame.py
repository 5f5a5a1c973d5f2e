"""Which fields are mutated how often and to what end, and which had better be left alone.

Two uses of one count.  For people it is the matrix of device, field and verdict: what
was never tried shows.  For the engine it says which fields are known to end the loader:
starting a process costs as much as dozens of loads, and the hundredth death by the same
field teaches nothing.

Theory of operation.  What a traced failure takes is blamed at once: its bytes in the
seed, so that a stream that has inherited the change is known too.  A field is also
suspected when of the loads that changed it so many were followed by a death, its own or
that of the next load.  Neither is ruled out: one in :data:`STILL_TRIED` is run all the
same, since another value of the same field may do something else.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from loadfuzz.execution import ExitKind
from loadfuzz.feedback.novelty import OVERRUNS
from loadfuzz.mutation import Mutation
from loadfuzz.places import without_indices
from loadfuzz.rng import Rng

MATRIX_FILE: Final = "matrix.json"
"""Loads by changed field and verdict, in each worker's folder."""

ELSEWHERE: Final = "blamed-elsewhere"
"""Verdict on a field that was changed in a load which failed because of another one."""

FIELDS_MAX: Final = 50_000
"""Fields counted: a real machine has some thousands, a hostile stream invents any number."""

SPANS_MAX: Final = 512
"""Blamed spans of one seed; each costs a comparison per child."""

STILL_TRIED: Final = 32
"""Of inputs that touch a blamed field, one in so many is run."""

SUSPICION_MIN: Final = 3
"""Deaths before a field is suspected: the field that was changed in the load before
the one that died is often innocent."""

OVERRUNS_MIN: Final = 2
"""Loads that took too much time or memory before what was changed is known for it: one of
many values may do that by chance."""

SUSPICION_SHARE: Final = 3
"""A field is suspected when one in so many of its loads was followed by a death."""


class Matrix:
    """Loads by changed field and verdict.

    Args:
        counts: to go on with.

    Attributes:
        counts: by path without indices, loads by exit kind or :data:`ELSEWHERE`.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: dict[str, dict[str, int]] | None = None) -> None:
        self.counts: dict[str, dict[str, int]] = {} if counts is None else counts

    def count(self, mutations: Sequence[Mutation], kind: ExitKind) -> None:
        """One load of an input that ``mutations`` made."""
        for field in fields_of(mutations):
            self._add(field, kind.value, 1)

    def _add(self, field: str, verdict: str, number: int) -> None:
        row = self.counts.get(field)
        if row is None:
            if len(self.counts) >= FIELDS_MAX:
                return
            row = self.counts[field] = {}
        row[verdict] = max(row.get(verdict, 0) + number, 0)

    def convict(self, counted: Sequence[Mutation], culprits: Iterable[str], kind: ExitKind) -> None:
        """A load that ended so did so because of ``culprits``, whatever was changed in it.

        An earlier load may have changed them.  For what else was changed it stays a load, and
        says no more.

        Args:
            counted: changes that the load was counted for.
            culprits: fields, without indices.
            kind: how it ended.
        """
        guilty, seen = set(culprits), set(fields_of(counted))
        for field in sorted(seen - guilty):
            self._add(field, kind.value, -1)
            self._add(field, ELSEWHERE, 1)
        for field in sorted(guilty - seen):
            self._add(field, kind.value, 1)

    def loads(self, field: str) -> int:
        """Loads that changed a field."""
        return sum(self.counts.get(field, {}).values())


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of the streams of one length that have to be as they are in a seed."""

    start: int
    end: int
    good: frozenset[bytes]
    signature: str


class Blame:
    """Knows which inputs had better not be run.

    Args:
        matrix: counts loads.
        rng: decides which are run all the same.

    Attributes:
        seeds: streams that the loader accepts; whatever stands in one of them is good.
    """

    __slots__ = ("_deaths", "_matrix", "_recent", "_rng", "_spans", "_suspects", "seeds")

    def __init__(self, matrix: Matrix, rng: Rng) -> None:
        self._matrix = matrix
        self._rng = rng
        self._spans: dict[int, list[_Span]] = {}
        self.seeds: Sequence[bytes] = ()
        self._deaths: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._recent: deque[tuple[str, ...]] = deque(maxlen=2)

    def loaded(self, mutations: Sequence[Mutation]) -> None:
        """An input was run, whatever came of it."""
        self._recent.append(fields_of(mutations))

    def died(self) -> None:
        """The loader failed at what was run last."""
        for field in {field for fields in self._recent for field in fields}:
            if field not in self._deaths and len(self._deaths) >= FIELDS_MAX:
                continue
            deaths = self._deaths[field] = self._deaths.get(field, 0) + 1
            if deaths >= SUSPICION_MIN and deaths * SUSPICION_SHARE >= self._matrix.loads(field):
                self._suspects.add(field)
        self._recent.clear()

    def blame(self, seed: bytes, changes: Iterable[Mutation], signature: str) -> None:
        """A failure of that signature was traced to these changes of ``seed``."""
        spans = self._spans.setdefault(len(seed), [])
        alike = [seed, *(one for one in self.seeds if len(one) == len(seed))]
        for change in changes:
            for item in change.splices:
                if item.end - item.start == len(item.replacement) and len(spans) < SPANS_MAX:
                    good = frozenset(one[item.start : item.end] for one in alike)
                    span = _Span(item.start, item.end, good, signature)
                    if span not in spans:
                        spans.append(span)
                else:
                    self._suspects.update(fields_of([change]))

    def convict(self, counted: Sequence[Mutation], culprits: Iterable[str], kind: ExitKind) -> None:
        """It is known whose work a failure was: see :meth:`Matrix.convict`."""
        self._matrix.convict(counted, culprits, kind)

    def touched(self, stream: bytes) -> frozenset[str]:
        """Signatures of the failures whose fields a stream changes."""
        return frozenset(
            span.signature
            for span in self._spans.get(len(stream), ())
            if stream[span.start : span.end] not in span.good
        )

    def avoids(self, child: bytes, mutations: Sequence[Mutation]) -> bool:
        """Whether an input had better not be run."""
        known = any(field in self._suspects for field in fields_of(mutations))
        if not known and not self.touched(child):
            return False
        return not self._rng.chance(1, STILL_TRIED)


class Overruns:
    """Knows which changes had better not be tried again, since what they make of a stream
    takes more time or memory than a load may have.

    In our own process nothing dies of it, so what a change comes to is seen at once, and
    nothing need be traced.  But each such load costs as much as hundreds of others.

    Args:
        rng: decides which are tried all the same.
    """

    __slots__ = ("_matrix", "_rng")

    def __init__(self, rng: Rng) -> None:
        self._matrix = Matrix()
        self._rng = rng

    def ran(self, mutations: Sequence[Mutation], kind: ExitKind) -> None:
        """An input was run.  Of several changes nobody knows which one it was."""
        if len(mutations) == 1:
            self._matrix.count(mutations, kind)

    def avoids(self, mutations: Sequence[Mutation]) -> bool:
        """Whether an input had better not be run."""
        if not any(map(self._overruns, fields_of(mutations))):
            return False
        return not self._rng.chance(1, STILL_TRIED)

    def _overruns(self, field: str) -> bool:
        row = self._matrix.counts.get(field)
        if row is None:
            return False
        times = sum(row.get(kind.value, 0) for kind in OVERRUNS)
        return times >= OVERRUNS_MIN and times * SUSPICION_SHARE >= sum(row.values())


def fields_of(mutations: Iterable[Mutation]) -> tuple[str, ...]:
    """Fields that mutations changed, without indices, each once; operators on raw bytes
    stand for themselves."""
    found: dict[str, None] = {}
    for mutation in mutations:
        found.setdefault(without_indices(mutation.path) or f"({mutation.operator})")
    return tuple(found)
