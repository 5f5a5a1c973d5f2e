"""Field values: integers near their bounds, buffers, and pairs of neighbours."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span, several
from loadfuzz.rng import Rng
from savevm.document import Node

_NEIGHBOURS: Final = 6
"""How far apart two related fields of a device usually are: a count and its
array, an index and its length."""


def integer(subject: Mutable, rng: Rng) -> Mutation | None:
    """One integer, or one element of an array of them."""
    integers = subject.places.integers
    if not integers:
        return None
    place = rng.below(len(integers))
    leaf = integers[place]
    start, size = _element(leaf, rng)
    old = int.from_bytes(subject.stream[start : start + size], "big")
    new = another(old, size, rng, _nearby(subject, integers, place))
    return replace_span(
        "field-integer", _path(leaf, start), subject, start, start + size,
        new.to_bytes(size, "big"), old, new,
    )  # fmt: skip


def related(subject: Mutable, rng: Rng) -> Mutation | None:
    """Two integers of one device at once: bounds hold between fields."""
    integers = subject.places.integers
    if len(integers) < 2:
        return None
    place = rng.below(len(integers) - 1)
    other = min(place + rng.between(1, _NEIGHBOURS), len(integers) - 1)
    splices, old, new = [], [], []
    for index in (place, other):
        leaf = integers[index]
        start, size = _element(leaf, rng)
        before = int.from_bytes(subject.stream[start : start + size], "big")
        after = another(before, size, rng, _nearby(subject, integers, index))
        splices.append(Splice(start, start + size, after.to_bytes(size, "big")))
        old.append(hex(before))
        new.append(hex(after))
    paths = f"{integers[place].path}, {integers[other].path}"
    return several("field-pair", paths, splices, " ".join(old), " ".join(new))


def buffer(subject: Mutable, rng: Rng) -> Mutation | None:
    """Part of a buffer or the whole of any field: noise, ones, zeros, text."""
    values = subject.places.values
    if not values:
        return None
    leaf = rng.choice(values)
    at = leaf.start + rng.below(leaf.size)
    length = rng.between(1, min(leaf.end - at, 64))
    way = rng.below(4)
    if way == 0:
        new = rng.bytes(length)
    elif way == 1:
        new = b"\xff" * length
    elif way == 2:
        new = bytes(length)
    else:
        new = bytes(0x20 + byte % 0x5F for byte in rng.bytes(length))
    return replace_span("field-bytes", leaf.path, subject, at, at + length, new)


def resized(subject: Mutable, rng: Rng) -> Mutation | None:
    """A field with bytes more or less than its layout has: a desynchronised
    stream whose footer should give it away."""
    values = subject.places.values
    if not values:
        return None
    leaf = rng.choice(values)
    body = subject.stream[leaf.start : leaf.end]
    if rng.chance(1, 2):
        new = body[: rng.below(len(body))]
    else:
        new = body + rng.bytes(rng.choice((1, 2, 4, 8)))
    return replace("field-resized", leaf, subject, new, len(body), len(new))


def copied(subject: Mutable, rng: Rng) -> Mutation | None:
    """One field's bytes in the place of another of the same size."""
    values = subject.places.values
    if len(values) < 2:
        return None
    leaf = rng.choice(values)
    donor = rng.choice(values)
    size = min(leaf.size, donor.size)
    new = subject.stream[donor.start : donor.start + size]
    return replace_span("field-copied", leaf.path, subject, leaf.start, leaf.start + size, new)


def _element(leaf: Node, rng: Rng) -> tuple[int, int]:
    size = leaf.element_size or leaf.size
    return leaf.start + size * rng.below(leaf.size // size), size


def _path(leaf: Node, start: int) -> str:
    if not leaf.element_size:
        return leaf.path
    return f"{leaf.path}[{(start - leaf.start) // leaf.element_size}]"


def _nearby(subject: Mutable, integers: list[Node], place: int) -> tuple[int, ...]:
    """What fields next to this one hold: counts, lengths and capacities."""
    near = integers[max(place - _NEIGHBOURS, 0) : place + _NEIGHBOURS]
    found = [leaf.value for leaf in near if type(leaf.value) is int]
    found += [leaf.count for leaf in near if leaf.element_size]
    return tuple(value for value in found if value >= 0)


OPERATORS: Final = (
    Operator("field-integer", 36, integer),
    Operator("field-pair", 10, related),
    Operator("field-bytes", 10, buffer),
    Operator("field-resized", 5, resized),
    Operator("field-copied", 4, copied),
)
