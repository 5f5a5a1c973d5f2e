"""What frames the sections: magic, version, configuration, vmdesc."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span
from loadfuzz.rng import Rng
from savevm.document import Role

_JSON_PIECES: Final = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"0", b"\\", b"\xff")


def vmdesc_size(subject: Mutable, rng: Rng) -> Mutation | None:
    """A vmdesc that is not as long as it says."""
    leaves = subject.places.of(Role.VMDESC_SIZE)
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    old = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    new = another(old, 4, rng, (old, len(subject.stream), 0x1000, 0xFFFF_FFFF))
    return replace("vmdesc-size", leaf, subject, new.to_bytes(4, "big"), old, new)


def vmdesc_text(subject: Mutable, rng: Rng) -> Mutation | None:
    """One character of the JSON."""
    leaves = [leaf for leaf in subject.places.of(Role.VMDESC) if leaf.size]
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    at = leaf.start + rng.below(leaf.size)
    return replace_span("vmdesc-text", leaf.path, subject, at, at + 1, rng.choice(_JSON_PIECES))


def header(subject: Mutable, rng: Rng) -> Mutation | None:
    """Magic or stream version."""
    leaves = subject.places.of(Role.VERSION if rng.chance(1, 2) else Role.MAGIC)
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    old = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    new = another(old, 4, rng, (2, 3, 4)) if leaf.size == 4 else old
    return replace("header", leaf, subject, new.to_bytes(leaf.size, "big"), old, new)


OPERATORS: Final = (
    Operator("vmdesc-size", 4, vmdesc_size),
    Operator("vmdesc-text", 1, vmdesc_text),
    Operator("header", 2, header),
)
