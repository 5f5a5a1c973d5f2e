"""What of a stream can be changed: its spans, sorted by what they are for.

A Document is walked once; mutators then draw from lists.  What few operators need is
found when first asked for.  Leaves of unknown layout are left to the raw operators.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

from savevm.document import Document, Node, NodeKind, RamRunNode, Role, SectionNode

_INTEGER_SIZES: Final = frozenset({1, 2, 4, 8})
_FIELD_ROLES: Final = frozenset({Role.FIELD, Role.DATA, Role.COUNT, Role.MARKER})
PLACES_MAX: Final = 50_000
"""Leaves looked at per stream: real `pc` device state has some thousands, and
a stream of a million markers must not make mutation slow."""
LISTS_MAX: Final = 2_000
"""Lists and arrays looked at per stream, and items of each."""

_INDEX: Final = re.compile(r"\[\d+\]|~\d+")


@dataclass(frozen=True, slots=True)
class Device:
    """The integers of one device.

    Attributes:
        groups: fields by name, indices aside: the elements of an array of structs,
            which are many and alike, are one group.
        integers: all of them, in stream order.
    """

    groups: tuple[tuple[Node, ...], ...]
    integers: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list, tree or array whose items can come and go.

    Attributes:
        path: of it.
        items: half-open spans, each with its own marker or key.
        end: where another item would go.
        counts: leaves that say how many items there are: its own, or integers
            before it in the same device that have that value.
    """

    path: str
    items: tuple[tuple[int, int], ...]
    end: int
    counts: tuple[Node, ...]


class Places:
    """The changeable spans of one Document.

    Attributes:
        document: the tree they are from.
        by_role: leaves by role, in stream order.
        sections: section nodes, in stream order.
        values: leaves that carry device state.
        integers: those of 1, 2, 4 or 8 bytes, and arrays of such.
        runs: long runs of RAM items.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.by_role: dict[Role, list[Node]] = {}
        self.sections: list[SectionNode] = list(document.sections)
        self.values: list[Node] = []
        self.integers: list[Node] = []
        self.runs: list[RamRunNode] = []
        for number, leaf in enumerate(document.leaves()):
            if number >= PLACES_MAX:
                break
            self._sort(leaf)

    def _sort(self, leaf: Node) -> None:
        role = leaf.role
        assert role is not None, "leaves have roles"
        self.by_role.setdefault(role, []).append(leaf)
        if isinstance(leaf, RamRunNode):
            self.runs.append(leaf)
        elif role in _FIELD_ROLES and leaf.size:
            self.values.append(leaf)
            if (leaf.element_size or leaf.size) in _INTEGER_SIZES:
                self.integers.append(leaf)

    def of(self, role: Role) -> list[Node]:
        """Leaves with a role; empty if there are none."""
        return self.by_role.get(role, [])

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Devices that have integers, in stream order."""
        found: dict[int, list[Node]] = {}
        starts = [section.start for section in self.sections]
        at = -1
        for leaf in self.integers:
            while at + 1 < len(starts) and starts[at + 1] <= leaf.start:
                at += 1
            found.setdefault(at, []).append(leaf)
        devices = []
        for leaves in found.values():
            groups: dict[str, list[Node]] = {}
            for leaf in leaves:
                groups.setdefault(group_of(leaf), []).append(leaf)
            devices.append(Device(tuple(map(tuple, groups.values())), tuple(leaves)))
        return tuple(devices)

    @cached_property
    def lists(self) -> tuple[Listed, ...]:
        """Lists, trees and arrays of structs or numbers, with what counts them."""
        found: list[Listed] = []
        for section in self.sections:
            numbers: list[Node] = []
            for node in section.walk():
                if len(found) >= LISTS_MAX:
                    return tuple(found)
                if node.role in _FIELD_ROLES and not node.element_size:
                    numbers.append(node)
                listed = _listed(node, numbers)
                if listed is not None:
                    found.append(listed)
        return tuple(found)

    @cached_property
    def ends_of_structs(self) -> tuple[tuple[str, int], ...]:
        """Paths of embedded states, and where the bytes behind each begin: there a loader
        looks for subsections."""
        found: list[tuple[str, int]] = []
        for section in self.sections:
            for node in section.walk():
                if node.kind in (NodeKind.ELEMENT, NodeKind.STRUCT, NodeKind.FIELD) and (
                    node.children and node.end < section.payload_end
                ):
                    found.append((node.path, node.end))
            found.append((section.path, section.payload_end))
        return tuple(found[:PLACES_MAX])

    @cached_property
    def items(self) -> tuple[Node, ...]:
        """Single RAM items, in stream order."""
        return tuple(
            node
            for section in self.sections
            if section.type_label != "FULL"
            for node in section.walk()
            if node.kind is NodeKind.RAM_ITEM and node.children
        )

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        """Words of the format that occur here: names behind their length bytes, as they
        stand in the stream."""
        found: dict[bytes, None] = {}
        for role in (Role.IDSTR, Role.SUBSECTION_NAME, Role.RAM_NAME):
            for leaf in self.of(role):
                found.setdefault(self.document.bytes_of(leaf))
        return tuple(found)


def group_of(leaf: Node) -> str:
    """What a leaf is called, indices aside.  Where a device has no description its reads
    are told apart by their order."""
    return leaf.path if leaf.role is Role.DATA else without_indices(leaf.path)


def without_indices(path: str) -> str:
    """A path in which elements of one array, and devices of one kind, are alike.

    >>> without_indices("nic~1/rx_ring[3]")
    'nic/rx_ring'
    """
    return _INDEX.sub("", path)


def _listed(node: Node, numbers: list[Node]) -> Listed | None:
    """What a node is as a list, if it is one."""
    if node.element_size and node.role is not None and node.count > 1:
        size = node.element_size
        spans = tuple((at, at + size) for at in range(node.start, node.end, size))[:LISTS_MAX]
        return Listed(node.path, spans, node.end, _counting(numbers, node.count))
    children = node.children
    elements = [child for child in children if child.kind is NodeKind.ELEMENT]
    marks = [child for child in children if child.role is Role.MARKER]
    if not elements and not marks:
        return None
    own = tuple(child for child in children if child.role is Role.COUNT)
    if marks and len(marks) == len(elements) + 1:
        bounds = [mark.start for mark in marks]
        spans = tuple(pairwise(bounds))[:LISTS_MAX]
        return Listed(node.path, spans, bounds[-1], own or _counting(numbers, len(elements)))
    if elements and not marks:
        spans = tuple((child.start, child.end) for child in elements)[:LISTS_MAX]
        return Listed(node.path, spans, spans[-1][1], own or _counting(numbers, len(elements)))
    return None


def _counting(numbers: list[Node], count: int) -> tuple[Node, ...]:
    return tuple(leaf for leaf in numbers[-64:] if leaf.value == count and leaf.size <= 4)
