"""Lists, trees and arrays: items more or less, and the count that goes with them.

A count that is changed alone mostly leaves the stream out of step with itself, and a
footer gives that away.  Changed together with what it counts, it comes as far as the
check that should have been there.
"""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.operator import Operator, replace_span, several
from loadfuzz.places import Listed
from loadfuzz.rng import Rng
from savevm.document import Node

_COPIES_MAX: Final = 64
"""Items added at once: more than any real device has room for."""


def grown(subject: Mutable, rng: Rng) -> Mutation | None:
    """Items that come again, one or many, and are counted."""
    listed = _any(subject, rng)
    if listed is None:
        return None
    start, end = rng.choice(listed.items)
    times = rng.choice((1, 1, 1, 2, 4, 16, _COPIES_MAX))
    body = subject.stream[start:end] * times
    if len(subject.stream) + len(body) > subject.size_max:
        return None
    at = rng.choice((end, listed.end))
    changes = [Splice(at, at, body), *_counted(subject, listed, times, rng)]
    return several("list-grown", listed.path, changes, len(listed.items), f"{times} more")


def shrunk(subject: Mutable, rng: Rng) -> Mutation | None:
    """An item less, and counted."""
    listed = _any(subject, rng)
    if listed is None:
        return None
    start, end = rng.choice(listed.items)
    changes = [Splice(start, end, b""), *_counted(subject, listed, -1, rng)]
    return several("list-shrunk", listed.path, changes, len(listed.items), "one less")


def copied(subject: Mutable, rng: Rng) -> Mutation | None:
    """One item's bytes in another's place: two of one key."""
    lists = [listed for listed in subject.places.lists if len(listed.items) > 1]
    if not lists:
        return None
    listed = rng.choice(lists)
    (start, end), (first, last) = rng.choice(listed.items), rng.choice(listed.items)
    body = subject.stream[first:last]
    if rng.chance(1, 2):
        # The head alone: a key with another value.
        size = rng.between(1, min(last - first, end - start, 16))
        end, body = start + size, body[:size]
    return replace_span("list-copied", listed.path, subject, start, end, body)


def recounted(subject: Mutable, rng: Rng) -> Mutation | None:
    """The count alone: off by one, nothing, everything."""
    lists = [listed for listed in subject.places.lists if listed.counts]
    if not lists:
        return None
    listed = rng.choice(lists)
    leaf = rng.choice(listed.counts)
    count, top = len(listed.items), (1 << 8 * leaf.size) - 1
    new = rng.choice((count + 1, count - 1, 0, top, top >> 1, top ^ top >> 1, -count)) & top
    return replace_span(
        "list-recounted", leaf.path, subject, leaf.start, leaf.end,
        new.to_bytes(leaf.size, "big"), count, new,
    )  # fmt: skip


def _any(subject: Mutable, rng: Rng) -> Listed | None:
    lists = [listed for listed in subject.places.lists if listed.items]
    return rng.choice(lists) if lists else None


def _counted(subject: Mutable, listed: Listed, more: int, rng: Rng) -> list[Splice]:
    """Splices that keep one of the counts right."""
    if not listed.counts:
        return []
    leaf: Node = rng.choice(listed.counts)
    old = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    new = (old + more) & ((1 << 8 * leaf.size) - 1)
    return [Splice(leaf.start, leaf.end, new.to_bytes(leaf.size, "big"))]


OPERATORS: Final = (
    Operator("list-grown", 6, grown),
    Operator("list-shrunk", 3, shrunk),
    Operator("list-copied", 5, copied),
    Operator("list-recounted", 5, recounted),
)
