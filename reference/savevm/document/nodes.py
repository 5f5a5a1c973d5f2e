"""The nodes of a Document: spans of a stream that say what they are for.

A *leaf* has a :class:`~savevm.recording.Role` and covers bytes; the leaves of a
Document follow each other without gap or overlap from the first byte to the
last.  An inner node groups them and has a role of ``None``.  Everything here
is a view of one immutable stream; edits make new bytes (:mod:`.edits`).
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from savevm.constants import SectionType
from savevm.recording import NodeKind, Role

Value: TypeAlias = (
    "int | float | str | bytes | list[int] | list[bool] | list[float] | list[bytes] | None"
)
"""What a leaf was understood as.  ``None``: ask for its bytes instead."""

NAMELESS: Final = "(no name)"
"""What a path shows for an empty name."""
_TYPE_NAMES: Final = {int(kind): kind.name for kind in SectionType}


class Node:
    """One span of a stream.

    Attributes:
        kind: what the span stands for.
        name: its own name, the last component of :attr:`path`.
        start, end: half-open span of stream offsets.
        role: what the bytes of a leaf are for; ``None`` for inner nodes.
        type_name: VMStateInfo name of a field (``uint32``, ``struct``, …), or
            vmsd name of a subsection; ``""`` where there is none.
        value: of a leaf: int, str (Latin-1), bytes, or a list of these for an
            array of primitives; ``None`` when the bytes say all (RAM, opaque
            rests, long buffers of a file).
        element_size: bytes of one element of an array leaf, else 0.
        children: in stream order; empty for leaves.
        parent: the node this one is part of; ``None`` for the root.
    """

    __slots__ = (
        "kind", "name", "start", "end", "role", "type_name", "value", "element_size",
        "children", "parent", "_labels",
    )  # fmt: skip

    def __init__(
        self,
        kind: NodeKind,
        name: str,
        start: int,
        end: int,
        role: Role | None = None,
        value: Value = None,
        type_name: str = "",
    ) -> None:
        self.kind = kind
        self.name = name
        self.start = start
        self.end = end
        self.role = role
        self.type_name = type_name
        self.value = value
        self.element_size = 0
        self.children: Sequence[Node] = ()
        self.parent: Node | None = None
        self._labels: dict[int, str] | None = None

    @property
    def size(self) -> int:
        """Bytes of the span."""
        return self.end - self.start

    @property
    def is_leaf(self) -> bool:
        """Whether the node itself covers its bytes."""
        return self.role is not None

    @property
    def count(self) -> int:
        """Elements of an array leaf; 1 for every other node."""
        return self.size // self.element_size if self.element_size else 1

    def element(self, index: int) -> "Node":
        """Element ``index`` of an array leaf, as a leaf of its own.

        Raises:
            IndexError: the node has no such element.
        """
        if not self.element_size or not 0 <= index < self.count:
            raise IndexError(f"{self.path} has no element {index}")
        start = self.start + index * self.element_size
        value = self.value[index] if isinstance(self.value, list) else None
        node = Node(
            NodeKind.ELEMENT, f"[{index}]", start, start + self.element_size, self.role, value,
            self.type_name,
        )  # fmt: skip
        node.parent = self
        return node

    @property
    def path(self) -> str:
        """Where the node is, unique in its Document: ``timer/cpu_clock_offset``,
        ``0000:00:03.0/e1000/mac_reg[5]``, ``ram/PART[0]/pc.ram/page 0x3000``.

        A name that occurs again among its siblings is followed by ``~1``,
        ``~2``, …  Only a stream that gives a device the name of another's field
        with a slash in it can make two paths alike.
        """
        labels: list[str] = []
        node: Node = self
        while node.parent is not None:
            labels.append(node.parent.label_of(node))
            node = node.parent
        path = ""
        for label in reversed(labels):
            path += label if label.startswith("[") or not path else "/" + label
        return path

    def label_of(self, child: "Node") -> str:
        """Name of ``child`` made unique among the children of this node."""
        if self._labels is None:
            used: dict[str, int] = {}
            given: set[str] = set()
            self._labels = {}
            for node in self.children:
                name = label = node.name or NAMELESS
                while label in given:
                    turn = used[name] = used.get(name, 0) + 1
                    label = f"{name}~{turn}"
                given.add(label)
                self._labels[id(node)] = label
        return self._labels.get(id(child), child.name)

    def leaves(self) -> Iterator["Node"]:
        """The leaves below this node (or itself), in stream order."""
        for node in self.walk():
            if node.role is not None:
                yield node

    def walk(self) -> Iterator["Node"]:
        """This node and everything below it, in stream order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            if node.children:
                stack.extend(reversed(node.children))

    def __repr__(self) -> str:
        what = self.role or self.kind
        return f"<{what} {self.path!r} {self.start:#x}-{self.end:#x} {self.value!r:.60}>"


class SectionNode(Node):
    """A START, PART, END or FULL section with header, payload and footer.

    Attributes:
        type: its type byte.
        section_id: as in its own header.
        idstr: name in its header, or in the START section it continues; ``""``
            where that cannot be known.
        instance_id, version_id: as in its header, unsigned; ``None`` for PART
            and END.
        header_end: offset of the first byte of the payload.
        payload_end: offset of the footer, or the section's end without one.
    """

    __slots__ = (
        "type", "section_id", "idstr", "instance_id", "version_id", "header_end", "payload_end",
    )  # fmt: skip

    def __init__(self, name: str, start: int, end: int, section_type: int) -> None:
        super().__init__(NodeKind.SECTION, name, start, end)
        self.type = section_type
        self.section_id = 0
        self.idstr = ""
        self.instance_id: int | None = None
        self.version_id: int | None = None
        self.header_end = end
        self.payload_end = end

    @property
    def type_label(self) -> str:
        """``START``, ``PART``, ``END`` or ``FULL``."""
        return _TYPE_NAMES.get(self.type, f"{self.type:#x}")

    @property
    def footer(self) -> Node | None:
        """The footer, if the section has one."""
        last = self.children[-1] if self.children else None
        return last if last is not None and last.kind is NodeKind.FOOTER else None

    @property
    def fields(self) -> list[Node]:
        """Leaves of the payload: every value between header and footer."""
        return [leaf for leaf in self.leaves() if self.header_end <= leaf.start < self.payload_end]

    def header(self, role: Role) -> Node:
        """The leaf of the header with ``role``: SECTION_TYPE, SECTION_ID,
        IDSTR, INSTANCE_ID or VERSION_ID.

        Raises:
            KeyError: this section's header has none.
        """
        for node in self.children:
            if node.role is role and node.start < self.header_end:
                return node
        raise KeyError(f"{self.path} has no {role}")
