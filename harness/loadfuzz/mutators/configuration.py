"""The configuration section and VM_COMMANDs: what is said about the stream as a whole."""

from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.numbers import another
from loadfuzz.mutators.operator import Operator, replace, replace_span, several, shown
from loadfuzz.rng import Rng
from savevm.configuration import (
    CAPABILITIES,
    VMSTATE_CAPABILITIES,
    VMSTATE_TARGET_PAGE_BITS,
    VMSTATE_UUID,
)
from savevm.constants import QEMU_VM_SUBSECTION
from savevm.document import Node, Role

_UUID_BYTES: Final = 16
_COMMAND_ROLES: Final = (Role.COMMAND, Role.COMMAND_LENGTH, Role.COMMAND_DATA)


def machine(subject: Mutable, rng: Rng) -> Mutation | None:
    """The machine type: another one, with its length or against it."""
    length, name = _leaf(subject, "len"), _leaf(subject, "name")
    if length is None:
        return None
    old = int.from_bytes(subject.stream[length.start : length.end], "big")
    if name is None or rng.chance(1, 2):
        new = another(old, 4, rng, (old,)) if length.size == 4 else old
        return replace("configuration-length", length, subject, new.to_bytes(length.size, "big"),
                       old, new)  # fmt: skip
    body = subject.stream[name.start : name.end]
    other = rng.choice((body + b"x", body[:-1], body + b"\0", b"", b"none", b"pc", body.upper()))
    splices = [
        Splice(length.start, length.end, len(other).to_bytes(4, "big")),
        Splice(name.start, name.end, other),
    ]
    return several("configuration-name", name.path, splices, body, other)


def subsection(subject: Mutable, rng: Rng) -> Mutation | None:
    """A subsection of the configuration: page bits, capabilities, UUID; one it may have, or
    has already, or cannot have like that."""
    node = subject.places.document.configuration
    if node is None or len(subject.stream) + 300 > subject.size_max:
        return None
    way = rng.below(3)
    if way == 0:
        vmsd, body = VMSTATE_TARGET_PAGE_BITS, rng.choice((12, 13, 16, 0, 32, 0xFFFF_FFFF))
        payload = body.to_bytes(4, "big")
    elif way == 1:
        names = [rng.choice((*CAPABILITIES, "nothing", "")) for _ in range(rng.below(3))]
        count = len(names) if rng.chance(3, 4) else rng.choice((0, 255, 0xFFFF_FFFF))
        vmsd = VMSTATE_CAPABILITIES
        payload = count.to_bytes(4, "big") + b"".join(
            bytes((len(name),)) + name.encode() for name in names
        )
    else:
        vmsd, payload = VMSTATE_UUID, rng.bytes(rng.choice((_UUID_BYTES, 15, 17)))
    name = vmsd.name.encode()
    version = rng.choice((1, 1, 1, 0, 2)).to_bytes(4, "big")
    piece = bytes((QEMU_VM_SUBSECTION, len(name))) + name + version + payload
    at = node.end
    return Mutation("configuration-subsection", node.path, (Splice(at, at, piece),), "",
                    shown(piece))  # fmt: skip


def absent(subject: Mutable, rng: Rng) -> Mutation | None:
    """No configuration, or two of them."""
    node = subject.places.document.configuration
    if node is None or node.size == 0:
        return None
    body = subject.stream[node.start : node.end]
    twice = rng.chance(1, 2) and len(subject.stream) + len(body) <= subject.size_max
    new = body * 2 if twice else b""
    return replace_span("configuration-absent", node.path, subject, node.start, node.end, new)


def command(subject: Mutable, rng: Rng) -> Mutation | None:
    """A VM_COMMAND's number, length or payload."""
    leaves = [leaf for role in _COMMAND_ROLES for leaf in subject.places.of(role) if leaf.size]
    if not leaves:
        return None
    leaf = rng.choice(leaves)
    size = next(width for width in (8, 4, 2, 1) if width <= leaf.size)
    at = leaf.start + rng.below(leaf.size - size + 1)
    old = int.from_bytes(subject.stream[at : at + size], "big")
    new = rng.below(13) if leaf.role is Role.COMMAND else another(old, size, rng)
    return replace_span("command", leaf.path, subject, at, at + size, new.to_bytes(size, "big"),
                        old, new)  # fmt: skip


def _leaf(subject: Mutable, name: str) -> Node | None:
    node = subject.places.document.configuration
    if node is None:
        return None
    return next((leaf for leaf in node.leaves() if leaf.name == name), None)


OPERATORS: Final = (
    Operator("configuration-name", 2, machine),
    Operator("configuration-subsection", 3, subsection),
    Operator("configuration-absent", 1, absent),
    Operator("command", 3, command),
)
