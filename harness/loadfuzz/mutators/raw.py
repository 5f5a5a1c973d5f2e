"""Raw bytes: for what no layout describes, and against our own blind spots."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import EDGES
from loadfuzz.mutators.operator import Operator, replace_span, shown
from loadfuzz.rng import Rng

_BLOCK_MAX: Final = 256
"""Bytes inserted, removed or copied at once."""


def bit(subject: Mutable, rng: Rng) -> Mutation | None:
    """One bit."""
    if not subject.stream:
        return None
    at = rng.below(len(subject.stream))
    new = bytes([subject.stream[at] ^ (1 << rng.below(8))])
    return replace_span("raw-bit", "", subject, at, at + 1, new)


def overwrite(subject: Mutable, rng: Rng) -> Mutation | None:
    """An edge number of some width over whatever is there."""
    size = rng.choice((1, 2, 4, 8))
    if len(subject.stream) < size:
        return None
    at = rng.below(len(subject.stream) - size + 1)
    new = rng.choice(EDGES[size]).to_bytes(size, rng.choice(("big", "little")))
    return replace_span("raw-number", "", subject, at, at + size, new)


def remove(subject: Mutable, rng: Rng) -> Mutation | None:
    """Some bytes less."""
    if not subject.stream:
        return None
    at = rng.below(len(subject.stream))
    end = min(at + rng.between(1, _BLOCK_MAX), len(subject.stream))
    return replace_span("raw-remove", "", subject, at, end, b"")


def insert(subject: Mutable, rng: Rng) -> Mutation | None:
    """Some bytes more: noise, a copy, or another stream's."""
    at = rng.below(len(subject.stream) + 1)
    length = rng.between(1, _BLOCK_MAX)
    way = rng.below(3)
    source = subject.donor if way == 0 else subject.stream
    if way == 2 or not source:
        body = rng.bytes(min(length, 16))
    else:
        start = rng.below(len(source))
        body = source[start : start + length]
    if len(subject.stream) + len(body) > subject.size_max:
        return None
    return Mutation("raw-insert", "", (Splice(at, at, body),), "", f"{shown(body)} at {at:#x}")


def truncate(subject: Mutable, rng: Rng) -> Mutation | None:
    """The stream ends anywhere."""
    if not subject.stream:
        return None
    at = rng.below(len(subject.stream))
    return replace_span("raw-truncate", "", subject, at, len(subject.stream), b"")


OPERATORS: Final = (
    Operator("raw-bit", 22, bit),
    Operator("raw-number", 22, overwrite),
    Operator("raw-remove", 5, remove),
    Operator("raw-insert", 6, insert),
    Operator("raw-truncate", 2, truncate),
)
