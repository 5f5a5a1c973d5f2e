"""What of a stream can be changed: its spans, sorted by what they are for.

A Document is walked once; mutators then draw from lists.  Leaves of unknown
layout are left to the raw operators.
"""

from typing import Final

from savevm.document import Document, Node, RamRunNode, Role, SectionNode

_INTEGER_SIZES: Final = frozenset({1, 2, 4, 8})
_FIELD_ROLES: Final = frozenset({Role.FIELD, Role.DATA, Role.COUNT, Role.MARKER})
PLACES_MAX: Final = 50_000
"""Leaves looked at per stream: real `pc` device state has some thousands, and
a stream of a million markers must not make mutation slow."""


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

    __slots__ = ("by_role", "document", "integers", "runs", "sections", "values")

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
