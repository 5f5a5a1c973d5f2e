"""Changing a stream at known spans, with a chosen consistency.

Nothing is re-serialised: an edit replaces a span by bytes, and all edits of one
change are spliced in one pass.  What depends on a changed span (the length
byte of a string, the footer of a section, the size before the vmdesc) either
follows, stays as it is, or is made wrong on purpose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from savevm.constants import (
    IDSTR_MAX,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
)
from savevm.document.nodes import Node, SectionNode, Value
from savevm.recording import Role

if TYPE_CHECKING:
    from savevm.document.document import Document


class Consistency(Enum):
    """What happens to spans that depend on an edited one."""

    REPAIR = "repair"
    """They follow."""
    KEEP = "keep"
    """Only the named bytes change."""
    BREAK = "break"
    """They follow, but one kind, which is made wrong."""


class Dependent(StrEnum):
    """A kind of span whose content follows from others."""

    STRING_LENGTH = "string length"
    """The length byte of a counted string."""
    FOOTER = "footer"
    """The section id in a section's footer."""
    PARTS = "parts"
    """The section id of the sections that continue a START section."""
    VMDESC_SIZE = "vmdesc size"
    """The be32 before the vmdesc."""
    COMMAND_LENGTH = "command length"
    """The be16 before a command's payload."""
    CONFIGURATION_LENGTH = "configuration length"
    """The be32 before the machine's name."""
    XBZRLE_LENGTH = "xbzrle length"
    """The be16 before an encoded page."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes ``start`` to ``end`` are replaced by ``data``; an insertion has
    ``start == end``."""

    start: int
    end: int
    data: bytes


COUNTED_ROLES: Final = frozenset({Role.IDSTR, Role.SUBSECTION_NAME, Role.RAM_NAME})
_NAMED: Final = (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL)
_LENGTH_BEFORE: Final = {
    Role.VMDESC: (Role.VMDESC_SIZE, Dependent.VMDESC_SIZE),
    Role.COMMAND_DATA: (Role.COMMAND_LENGTH, Dependent.COMMAND_LENGTH),
    Role.RAM_XBZRLE_DATA: (Role.RAM_XBZRLE_LENGTH, Dependent.XBZRLE_LENGTH),
}


def is_counted(node: Node) -> bool:
    """Whether the leaf is a length byte and that many bytes of text."""
    return node.role in COUNTED_ROLES or (node.role is Role.FIELD and isinstance(node.value, str))


# -- making edits -----------------------------------------------------------------------------


def value_edit(document: "Document", node: Node, value: Value, consistency: Consistency) -> Edit:
    """The edit that gives a leaf another value.

    Raises:
        ValueError: the node is no leaf, or cannot hold a value of that kind.
    """
    if node.role is None:
        raise ValueError(f"{node.path} is no leaf")
    if isinstance(value, str):
        if not is_counted(node):
            raise ValueError(f"{node.path} holds no counted string")
        text = value.encode("latin-1")
        if consistency is Consistency.KEEP:
            return Edit(node.start + 1, node.end, text)
        if len(text) > IDSTR_MAX:
            raise ValueError(f"a counted string has at most {IDSTR_MAX} bytes")
        return Edit(node.start, node.end, bytes((len(text),)) + text)
    return Edit(node.start, node.end, encode(node, value))


def encode(node: Node, value: Value) -> bytes:
    """``value`` in the leaf's own type and width.

    Raises:
        ValueError: the type has no such values.
    """
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, list):
        if not node.element_size:
            raise ValueError(f"{node.path} is no array")
        return b"".join(
            item if isinstance(item, bytes) else _integer(item, node.element_size) for item in value
        )
    if isinstance(value, int):
        if node.element_size:
            raise ValueError(f"{node.path} is an array: give it a list, or address an element")
        if node.type_name == "bitmap":
            words = range(0, node.size * 8, 64)
            return b"".join(_integer(value >> shift, 8) for shift in words)
        return _integer(value, node.size)
    raise ValueError(f"{node.path} cannot hold {value!r}")


def _integer(value: object, size: int) -> bytes:
    if not isinstance(value, int):
        raise ValueError(f"expected an integer, got {value!r}")
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big")


def retype_edits(section: SectionNode, section_type: int, consistency: Consistency) -> list[Edit]:
    """The edits that give a section another type.

    A PART or END has no name in its header: with REPAIR it is taken away or,
    the other way round, put there (instance 0, version 1 where nothing is
    known better).
    """
    changes = [Edit(section.start, section.start + 1, bytes((section_type & 0xFF,)))]
    if consistency is Consistency.KEEP:
        return changes
    behind_id = section.start + 5
    named = section.type in _NAMED
    if named and section_type in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
        changes.append(Edit(behind_id, section.header_end, b""))
    elif not named and section_type in _NAMED:
        name = section.idstr.encode("latin-1")[:IDSTR_MAX]
        header = bytes((len(name),)) + name + _integer(0, 4) + _integer(1, 4)
        changes.append(Edit(behind_id, behind_id, header))
    return changes


# -- consistency --------------------------------------------------------------------------------


def consistent(
    document: "Document",
    changes: Sequence[Edit],
    consistency: Consistency,
    broken: Dependent | None,
) -> list[Edit]:
    """``changes`` with what follows from them under ``consistency``.

    A dependent that a change sets itself is left as that change has it.

    Raises:
        ValueError: BREAK does not say what to break.
    """
    result = list(changes)
    if consistency is Consistency.KEEP:
        return result
    if consistency is Consistency.BREAK and broken is None:
        raise ValueError("BREAK needs to know which dependent to break")
    follow = _Followers(document, result, broken if consistency is Consistency.BREAK else None)
    for change in changes:
        if change.start < change.end:
            follow.change(change)
    return result


class _Followers:
    """Collects the edits of dependents."""

    def __init__(self, document: "Document", edits: list[Edit], broken: Dependent | None) -> None:
        self._document = document
        self._edits = edits
        self._broken = broken

    def change(self, change: Edit) -> None:
        node = self._document.leaf_at(change.start)
        grown = len(change.data) - (change.end - change.start)
        whole = change.start == node.start and change.end == node.end
        if is_counted(node):
            self._counted(node, change, grown)
        elif node.role in _LENGTH_BEFORE and change.end <= node.end:
            role, kind = _LENGTH_BEFORE[node.role]
            self._set_sibling(node, role, node.size + grown, kind)
        elif node.role is Role.SECTION_ID and whole and len(change.data) == 4:
            self._section_id(node, change.data)
        elif node.role is Role.FIELD and node.path == "configuration/name":
            size = next(
                leaf for leaf in self._document.leaves() if leaf.path == "configuration/len"
            )
            self._set(size, node.size + grown, Dependent.CONFIGURATION_LENGTH)

    def _counted(self, node: Node, change: Edit, grown: int) -> None:
        length = node.size - 1 + grown
        if change.start > node.start:
            if 0 <= length <= IDSTR_MAX:
                self._put(node.start, 1, length, Dependent.STRING_LENGTH)
        elif change.data and self._broken is Dependent.STRING_LENGTH:
            # The change brings its own length byte: make that one wrong.
            index = self._edits.index(change)
            wrong = bytes(((change.data[0] + 1) & 0xFF,)) + change.data[1:]
            self._edits[index] = Edit(change.start, change.end, wrong)

    def _section_id(self, node: Node, data: bytes) -> None:
        section = node.parent
        if not isinstance(section, SectionNode):
            return
        new = int.from_bytes(data, "big")
        self._footer(section, new)
        if section.type != QEMU_VM_SECTION_START:
            return
        behind = (s for s in self._document.sections if s.start > section.start)
        for other in behind:
            if other.section_id != section.section_id:
                continue
            if other.type in _NAMED:
                break  # the number is another section's from here on
            self._put(other.start + 1, 4, new, Dependent.PARTS)
            self._footer(other, new)

    def _footer(self, section: SectionNode, section_id: int) -> None:
        footer = section.footer
        if footer is not None and footer.end - footer.start == 5:
            self._put(footer.start + 1, 4, section_id, Dependent.FOOTER)

    def _set_sibling(self, node: Node, role: Role, value: int, kind: Dependent) -> None:
        if node.parent is None:
            return
        for sibling in node.parent.children:
            if sibling.role is role and sibling.end <= node.start:
                self._set(sibling, value, kind)
                return

    def _set(self, node: Node, value: int, kind: Dependent) -> None:
        self._put(node.start, node.size, value, kind)

    def _put(self, start: int, size: int, value: int, kind: Dependent) -> None:
        end = start + size
        if any(edit.start < end and start < edit.end for edit in self._edits):
            return  # somebody has a will of their own about it
        if kind is self._broken:
            value += 1
        self._edits.append(Edit(start, end, _integer(value, size)))


# -- splicing --------------------------------------------------------------------------------------


def apply(document: "Document", changes: Sequence[Edit]) -> bytes:
    """The stream with all changes made.

    Insertions at one offset keep their order; one at the start of a replaced
    span comes before it.

    Raises:
        ValueError: changes overlap or lie outside the stream.
    """
    pieces: list[bytes] = []
    position = 0
    for change in sorted(changes, key=lambda edit: (edit.start, edit.end)):
        if not position <= change.start <= change.end <= document.size:
            raise ValueError(f"{change} overlaps another or lies outside the stream")
        pieces += (document.read(position, change.start), change.data)
        position = change.end
    pieces.append(document.read(position, document.size))
    return b"".join(pieces)
