"""RAM items: flags, addresses, block names, lengths, fill bytes, XBZRLE."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span
from loadfuzz.rng import Rng
from savevm.constants import TARGET_PAGE_SIZE
from savevm.document import Role

_FLAGS: Final = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x0A, 0x60, 0x28)
_SMALL_ROLES: Final = (
    Role.RAM_FILL,
    Role.RAM_XBZRLE_FLAG,
    Role.RAM_XBZRLE_LENGTH,
    Role.RAM_LENGTH,
)
_HEADER_SIZE: Final = 8


def header(subject: Mutable, rng: Rng) -> Mutation | None:
    """The be64 that opens an item: other flags, or another page."""
    spans = [(leaf.path, leaf.start) for leaf in subject.places.of(Role.RAM_HEADER) if leaf.size]
    if subject.places.runs and (not spans or rng.chance(1, 2)):
        run = rng.choice(subject.places.runs)
        index = rng.below(run.items)
        path, start = f"{run.path}[{index}]", run.item_span(index)[0]
    elif spans:
        path, start = rng.choice(spans)
    else:
        return None
    end = start + _HEADER_SIZE
    old = int.from_bytes(subject.stream[start:end], "big")
    page, flags = old & ~(TARGET_PAGE_SIZE - 1), old & (TARGET_PAGE_SIZE - 1)
    way = rng.below(5)
    if way == 0:
        flags = rng.choice(_FLAGS)
    elif way == 1:
        flags ^= 0x20
    elif way == 2:
        flags ^= 1 << rng.below(12)
    elif way == 3:
        page = (page + TARGET_PAGE_SIZE * rng.choice((1, -1, 2, 16, -16, 1 << 20))) % (1 << 64)
    else:
        page = another(page, 8, rng) & ~(TARGET_PAGE_SIZE - 1)
    new = (page | flags) & ((1 << 64) - 1)
    return replace_span("ram-header", path, subject, start, end, new.to_bytes(8, "big"), old, new)


def small(subject: Mutable, rng: Rng) -> Mutation | None:
    """Lengths, fill bytes and XBZRLE headers."""
    leaves = [leaf for role in _SMALL_ROLES for leaf in subject.places.of(role)]
    leaves = [leaf for leaf in leaves if leaf.size in (1, 2, 4, 8)]
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    old = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    hints = (TARGET_PAGE_SIZE, old + TARGET_PAGE_SIZE, max(old - TARGET_PAGE_SIZE, 0))
    new = another(old, leaf.size, rng, hints)
    return replace("ram-length", leaf, subject, new.to_bytes(leaf.size, "big"), old, new)


def name(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another block name, or another length of it."""
    leaves = subject.places.of(Role.RAM_NAME)
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    body = subject.stream[leaf.start + 1 : leaf.end]
    way = rng.below(4)
    if way == 0:
        donor = rng.choice(leaves)
        new = subject.stream[donor.start : donor.end]
    elif way == 1:
        new = bytes([rng.below(256)]) + body
    elif way == 2:
        new = b"\0"
    else:
        new = bytes([min(len(body) + 1, 255)]) + body[:254] + rng.choice((b"\0", b"x"))
    return replace("ram-name", leaf, subject, new)


def xbzrle(subject: Mutable, rng: Rng) -> Mutation | None:
    """The run lengths inside an XBZRLE page."""
    leaves = [leaf for leaf in subject.places.of(Role.RAM_XBZRLE_DATA) if leaf.size]
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    at = leaf.start + rng.below(leaf.size)
    new = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.below(256)))])
    return replace_span("ram-xbzrle", leaf.path, subject, at, at + 1, new)


OPERATORS: Final = (
    Operator("ram-header", 9, header),
    Operator("ram-length", 5, small),
    Operator("ram-name", 4, name),
    Operator("ram-xbzrle", 2, xbzrle),
)
