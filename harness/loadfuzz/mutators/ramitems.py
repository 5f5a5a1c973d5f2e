"""RAM items: flags, addresses, block names, lengths, fill bytes, XBZRLE."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
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
_CONTINUE: Final = 0x20


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


def item(subject: Mutable, rng: Rng) -> Mutation | None:
    """An item less, twice, or in another place."""
    items = subject.places.items
    if not items:
        return None
    node, other = rng.choice(items), rng.choice(items)
    body = subject.stream[node.start : node.end]
    way = rng.below(3)
    if way == 0:
        return replace_span("ram-item", node.path, subject, node.start, node.end, b"")
    if len(subject.stream) + len(body) > subject.size_max:
        return None
    at = node.end if way == 1 else other.start
    return Mutation("ram-item", node.path, (Splice(at, at, body),), "", f"again at {at:#x}")


def continued(subject: Mutable, rng: Rng) -> Mutation | None:
    """An item that names its block says "the same as before" instead: its flag is set and
    the name is gone."""
    names = subject.places.of(Role.RAM_NAME)
    if not names:
        return None
    # The first that is named is the most telling: there is nothing before it.
    leaf = rng.choice(names[:3] if rng.chance(1, 2) else names)
    start = leaf.start - _HEADER_SIZE
    if start < 0:
        return None
    old = int.from_bytes(subject.stream[start : leaf.start], "big")
    new = (old ^ _CONTINUE).to_bytes(_HEADER_SIZE, "big")
    end = leaf.start if rng.chance(1, 4) else leaf.end
    return replace_span("ram-continued", leaf.path, subject, start, end, new)


def past_the_end(subject: Mutable, rng: Rng) -> Mutation | None:
    """A page where its block ends, or some pages behind that."""
    spans = [(leaf.path, leaf.start) for leaf in subject.places.of(Role.RAM_HEADER) if leaf.size]
    for run in subject.places.runs:
        index = rng.below(run.items)
        spans.append((f"{run.path}[{index}]", run.item_span(index)[0]))
    lengths = [leaf for leaf in subject.places.of(Role.RAM_LENGTH) if leaf.size == _HEADER_SIZE]
    if not spans or not lengths:
        return None
    path, start = rng.choice(spans)
    leaf = rng.choice(lengths)
    length = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    old = int.from_bytes(subject.stream[start : start + _HEADER_SIZE], "big")
    flags = old & (TARGET_PAGE_SIZE - 1)
    page = length + TARGET_PAGE_SIZE * rng.choice((0, 0, 1, 2, 15, -1))
    new = (page & ~(TARGET_PAGE_SIZE - 1) | flags) & ((1 << 64) - 1)
    return replace_span("ram-past-end", path, subject, start, start + _HEADER_SIZE,
                        new.to_bytes(_HEADER_SIZE, "big"), old, new)  # fmt: skip


def encoded(subject: Mutable, rng: Rng) -> Mutation | None:
    """An XBZRLE page whose runs end just before the page, with it, or behind it; as long as
    the one before."""
    leaves = [leaf for leaf in subject.places.of(Role.RAM_XBZRLE_DATA) if leaf.size > 3]
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    room = leaf.size - 3
    changed = min(rng.between(1, room), 0x7F)
    skipped = max(TARGET_PAGE_SIZE - changed + rng.choice((-1, 0, 1, 2, changed - 1, changed)), 0)
    head = bytes((skipped & 0x7F | 0x80, skipped >> 7 & 0x7F, changed))
    new = head + rng.bytes(room)
    return replace("ram-encoded", leaf, subject, new)


OPERATORS: Final = (
    Operator("ram-item", 3, item),
    Operator("ram-continued", 3, continued),
    Operator("ram-past-end", 4, past_the_end),
    Operator("ram-encoded", 3, encoded),
    Operator("ram-header", 9, header),
    Operator("ram-length", 5, small),
    Operator("ram-name", 4, name),
    Operator("ram-xbzrle", 2, xbzrle),
)
