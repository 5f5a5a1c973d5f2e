"""Identity of a section: type, ids, name, version, footer."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span
from loadfuzz.rng import Rng
from savevm.document import Node, Role

_TYPES: Final = tuple(range(10)) + (0x7E, 0x7F, 0x80, 0xFF)
_NAME_MAX: Final = 255


def section_type(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another type byte: a real one, a footer's, or none of them."""
    return _byte("section-type", Role.SECTION_TYPE, _TYPES, subject, rng)


def footer_mark(subject: Mutable, rng: Rng) -> Mutation | None:
    """A footer that does not begin like one."""
    return _byte("footer-mark", Role.FOOTER_MARK, _TYPES, subject, rng)


def _byte(
    operator: str, role: Role, values: tuple[int, ...], subject: Mutable, rng: Rng
) -> Mutation | None:
    leaves = subject.places.of(role)
    if not leaves:
        return None
    return replace(operator, rng.choice(leaves), subject, bytes([rng.choice(values)]))


def section_id(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another section id in a header, alone or with its footer."""
    leaf = _any(subject, Role.SECTION_ID, rng)
    return None if leaf is None else _number("section-id", leaf, subject, rng, _ids(subject))


def footer_id(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another section id in a footer."""
    leaf = _any(subject, Role.FOOTER_ID, rng)
    return None if leaf is None else _number("footer-id", leaf, subject, rng, _ids(subject))


def instance_id(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another instance id."""
    leaf = _any(subject, Role.INSTANCE_ID, rng)
    return None if leaf is None else _number("instance-id", leaf, subject, rng)


def version_id(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another version of a section or subsection."""
    role = Role.SUBSECTION_VERSION if rng.chance(1, 2) else Role.VERSION_ID
    leaf = _any(subject, role, rng)
    if leaf is None:
        return None
    way = rng.below(4)
    if way == 0 and isinstance(leaf.value, int):
        # A loader that keeps fewer bits sees the same version.
        new = (leaf.value & 0xFF) | rng.choice((1 << 8, 1 << 16, 1 << 31, 0xFFFF_FF00))
        return replace("version-id", leaf, subject, new.to_bytes(4, "big"), leaf.value, new)
    if way <= 2:
        # Old versions reach code that a current stream never does.
        new = rng.below(6)
        return replace("version-id", leaf, subject, new.to_bytes(4, "big"), leaf.value, new)
    return _number("version-id", leaf, subject, rng)


def counted_string(subject: Mutable, rng: Rng) -> Mutation | None:
    """A name and its length byte: together, or one against the other."""
    role = Role.SUBSECTION_NAME if rng.chance(1, 3) else Role.IDSTR
    leaf = _any(subject, role, rng)
    if leaf is None:
        return None
    body = subject.stream[leaf.start + 1 : leaf.end]
    way = rng.below(8)
    if way <= 1:
        length = rng.choice((0, 1, len(body) - 1, len(body) + 1, 127, 128, 254, _NAME_MAX)) & 0xFF
        return replace_span(
            "counted-string-length", leaf.path, subject, leaf.start, leaf.start + 1,
            bytes([length]), len(body), length,
        )  # fmt: skip
    new = _other_name(body, way, subject, rng)[:_NAME_MAX]
    return replace("counted-string", leaf, subject, bytes([len(new)]) + new, body, new)


def _other_name(body: bytes, way: int, subject: Mutable, rng: Rng) -> bytes:
    if way == 2:
        return body[: rng.below(len(body) + 1)]
    if way == 3:
        return body + rng.choice((b"/", b"x", b"\0", b"0", body[-1:]))
    if way == 4:
        at = rng.below(len(body) + 1)
        return body[:at] + rng.choice((b"\0", b"\xff", b"/", b"\xc3\x28")) + body[at + 1 :]
    if way == 5:
        return bytes(rng.choice((_NAME_MAX, 254, 128))).replace(b"\0", body[:1] or b"A")
    others = subject.places.of(Role.IDSTR)
    donor = rng.choice(others) if others else None
    return subject.stream[donor.start + 1 : donor.end] if donor is not None else b"ram"


def _any(subject: Mutable, role: Role, rng: Rng) -> Node | None:
    leaves = subject.places.of(role)
    return rng.choice(leaves) if leaves else None


def _ids(subject: Mutable) -> tuple[int, ...]:
    return tuple(section.section_id for section in subject.places.sections[:64])


def _number(
    operator: str, leaf: Node, subject: Mutable, rng: Rng, hints: tuple[int, ...] = ()
) -> Mutation | None:
    size = leaf.size
    old = int.from_bytes(subject.stream[leaf.start : leaf.end], "big")
    new = another(old, size, rng, hints) if size in (1, 2, 4, 8) else old
    return replace(operator, leaf, subject, new.to_bytes(size, "big"), old, new)


OPERATORS: Final = (
    Operator("section-type", 6, section_type),
    Operator("section-id", 6, section_id),
    Operator("counted-string", 10, counted_string),
    Operator("instance-id", 4, instance_id),
    Operator("version-id", 6, version_id),
    Operator("footer-mark", 4, footer_mark),
    Operator("footer-id", 6, footer_id),
)
