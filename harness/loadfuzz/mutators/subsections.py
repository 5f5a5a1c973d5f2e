"""Subsections: what only looks like one, what nobody knows, what is too much of one."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.operator import Operator, replace, replace_span, shown
from loadfuzz.rng import Rng
from savevm.constants import QEMU_VM_SUBSECTION
from savevm.document import Role

_NAME_MAX: Final = 255
_LENGTHS: Final = (0, 1, 3, 8, 15, 16, 20, 24, 32, 64, 128, _NAME_MAX)


def lookalike(subject: Mutable, rng: Rng) -> Mutation | None:
    """The mark of a subsection and a length, where data follows an embedded state."""
    ends = subject.places.ends_of_structs
    if not ends:
        return None
    path, at = rng.choice(ends)
    fake = bytes((QEMU_VM_SUBSECTION, rng.choice(_LENGTHS)))
    if rng.chance(1, 4):
        fake += subject.stream[at + 2 : at + 2 + rng.below(8)]
    if rng.chance(1, 8):
        return _insert(path, subject, at, fake)
    return replace_span("subsection-lookalike", path, subject, at, at + len(fake), fake)


def unknown(subject: Mutable, rng: Rng) -> Mutation | None:
    """A subsection with the right prefix and a name that nobody has."""
    leaves = subject.places.of(Role.SUBSECTION_NAME)
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    name = subject.stream[leaf.start + 1 : leaf.end]
    parent = name.rpartition(b"/")[0]
    new = (parent + rng.choice((b"/", b"/x", b"/\0", b"", b"//" + name, b"/" + name)))[:_NAME_MAX]
    return replace("subsection-unknown", leaf, subject, bytes((len(new),)) + new, name, new)


def transplanted(subject: Mutable, rng: Rng) -> Mutation | None:
    """A made-up subsection with a known name behind any state: empty, or with some bytes."""
    tokens = [token for token in subject.places.tokens if b"/" in token]
    ends = subject.places.ends_of_structs
    if not tokens or not ends:
        return None
    path, at = rng.choice(ends)
    body = rng.bytes(rng.choice((0, 1, 2, 4, 8)))
    head = bytes((QEMU_VM_SUBSECTION,)) + rng.choice(tokens)
    return _insert(path, subject, at, head + rng.below(4).to_bytes(4, "big") + body)


def _insert(path: str, subject: Mutable, at: int, body: bytes) -> Mutation | None:
    if len(subject.stream) + len(body) > subject.size_max:
        return None
    splice = Splice(min(at, len(subject.stream)), min(at, len(subject.stream)), body)
    return Mutation("subsection-inserted", path, (splice,), "", shown(body))


OPERATORS: Final = (
    Operator("subsection-lookalike", 6, lookalike),
    Operator("subsection-unknown", 2, unknown),
    Operator("subsection-inserted", 2, transplanted),
)
