"""Field values: integers near their bounds, buffers, and pairs of neighbours."""

from bisect import bisect_left
from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span, several
from loadfuzz.places import Device
from loadfuzz.rng import Rng
from savevm.document import Node

_WIDEST: Final = 8
"""Bytes of the widest integer."""
_NEIGHBOURS: Final = 6
"""How far apart two related fields of a device usually are: a count and its
array, an index and its length."""


def integer(subject: Mutable, rng: Rng) -> Mutation | None:
    """One integer, or one element of an array of them: the device is drawn first, then
    the field, so that large devices and long arrays do not drown the others."""
    devices = subject.places.devices
    if not devices:
        return None
    device = rng.choice(devices)
    leaf = rng.choice(rng.choice(device.groups))
    start, size = _element(leaf, rng)
    old = int.from_bytes(subject.stream[start : start + size], "big")
    new = another(old, size, rng, _nearby(device, leaf))
    return replace_span(
        "field-integer", _path(leaf, start), subject, start, start + size,
        new.to_bytes(size, "big"), old, new,
    )  # fmt: skip


def related(subject: Mutable, rng: Rng) -> Mutation | None:
    """Two integers of one device at once: bounds hold between fields."""
    devices = subject.places.devices
    if not devices:
        return None
    device = rng.choice(devices)
    if len(device.groups) < 2:
        return None
    first = rng.below(len(device.groups))
    other = (first + rng.between(1, _NEIGHBOURS)) % len(device.groups)
    if first == other:
        return None
    splices, old, new, paths = [], [], [], []
    for group in sorted((first, other)):
        leaf = rng.choice(device.groups[group])
        start, size = _element(leaf, rng)
        before = int.from_bytes(subject.stream[start : start + size], "big")
        after = another(before, size, rng, _nearby(device, leaf))
        splices.append(Splice(start, start + size, after.to_bytes(size, "big")))
        old.append(hex(before))
        new.append(hex(after))
        paths.append(_path(leaf, start))
    return several("field-pair", ", ".join(paths), splices, " ".join(old), " ".join(new))


def relative(subject: Mutable, rng: Rng) -> Mutation | None:
    """One integer set by another one of its device: equal to it, just above, just below,
    twice as much.  That is how an index meets a length, and a length a capacity."""
    devices = subject.places.devices
    if not devices:
        return None
    device = rng.choice(devices)
    leaf, measure = rng.choice(rng.choice(device.groups)), rng.choice(rng.choice(device.groups))
    start, size = _element(leaf, rng)
    at, width = _element(measure, rng)
    value = int.from_bytes(subject.stream[at : at + width], "big")
    value = measure.count if measure.element_size and rng.chance(1, 2) else value
    value = rng.choice((value, value + 1, value - 1, 2 * value, -value))
    new = value & ((1 << 8 * size) - 1)
    old = int.from_bytes(subject.stream[start : start + size], "big")
    return replace_span(
        "field-relative", _path(leaf, start), subject, start, start + size,
        new.to_bytes(size, "big"), old, new,
    )  # fmt: skip


def filled(subject: Mutable, rng: Rng) -> Mutation | None:
    """All of a buffer: without a NUL that would end a text, or with nothing else."""
    values = [leaf for leaf in subject.places.values if leaf.size > _WIDEST]
    if not values:
        return None
    leaf = rng.choice(values)
    body = subject.stream[leaf.start : leaf.end]
    way = rng.below(3)
    if way == 0:
        new = bytes(byte or 0x41 for byte in body)
    elif way == 1:
        new = bytes((rng.between(1, 255),)) * len(body)
    else:
        new = bytes(len(body))
    return replace("field-filled", leaf, subject, new)


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


def _nearby(device: Device, leaf: Node) -> tuple[int, ...]:
    """What fields next to this one hold: counts, lengths and capacities."""
    integers = device.integers
    place = bisect_left(integers, leaf.start, key=lambda one: one.start)
    near = integers[max(place - _NEIGHBOURS, 0) : place + _NEIGHBOURS]
    found = [other.value for other in near if type(other.value) is int]
    found += [other.count for other in near if other.element_size]
    return tuple(value for value in found if value >= 0)


OPERATORS: Final = (
    Operator("field-integer", 40, integer),
    Operator("field-pair", 8, related),
    Operator("field-relative", 10, relative),
    Operator("field-filled", 4, filled),
    Operator("field-bytes", 10, buffer),
    Operator("field-resized", 5, resized),
    Operator("field-copied", 4, copied),
)
