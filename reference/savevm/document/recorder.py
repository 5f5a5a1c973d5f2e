"""Builds the tree of a Document from what a load reports.

Theory of operation.  The builder keeps a stack of open structures, each with
the list of its children so far.  A read appends a leaf; ``leave`` closes a
structure, which is where a field with one read becomes a leaf and a field with
many equal reads becomes one array leaf.  :meth:`TreeRecorder.cut` takes back
what was recorded from an offset on, for a load that ran too far, and
:meth:`TreeRecorder.finish` fills every gap with opaque leaves, so that the
leaves cover the stream whatever happened.
"""

from typing import Final, cast

from savevm.constants import (
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
)
from savevm.document.fields import collapse, name_ram_item
from savevm.document.gaps import cut, settle
from savevm.document.nodes import Node, SectionNode, Value
from savevm.document.ram_nodes import RamRunNode, RamSpanNode
from savevm.errors import LoadError
from savevm.ram.items import RAMFlag, RAMItem
from savevm.recording import NodeKind, Role

PROBLEMS_MAX: Final = 1000
"""Problems that are kept; a stream of junk has one at every turn, and nobody
reads more."""
RAM_NODES_MAX: Final = 20_000
"""RAM items of a file that have nodes of their own (some 10 MiB).  Those behind
them are gathered in spans: what a large file has of them shall not fill memory."""
LEAF_BYTES_KEPT: Final = 1 << 16
"""Longest value a leaf of a file keeps; of longer ones the bytes are read again
when asked for."""
_ROLES: Final[dict[str, Role]] = {str(role): role for role in Role}
_COLLAPSIBLE: Final = frozenset({NodeKind.FIELD, NodeKind.ELEMENT})
_LIVE_LABELS: Final = {
    QEMU_VM_SECTION_START: "START",
    QEMU_VM_SECTION_END: "END",
}


class TreeRecorder:
    """The :class:`~savevm.recording.Recorder` that makes nodes.

    Args:
        page_size: bytes of a RAM page in this stream.
        lazy: keep no long values; they can be read again.

    Attributes:
        problems: what the loader would have refused, and notes, in the order it
            was met.
        problems_dropped: how many more there were.
        page_size: as given.
    """

    def __init__(self, page_size: int, *, lazy: bool = False) -> None:
        self.problems: list[LoadError] = []
        self.problems_dropped = 0
        self.page_size = page_size
        self._lazy = lazy
        self._root = Node(NodeKind.STREAM, "", 0, 0)
        self._open: list[Node] = []
        self._children: list[Node] = []
        self._outer: list[list[Node]] = []
        self._values: list[object] = []
        self._parts: dict[str, int] = {}
        self._ram_nodes = 0

    # -- Recorder --------------------------------------------------------------------------

    def enter(self, kind: NodeKind, name: str, start: int, type_name: str = "") -> None:
        node: Node
        if kind is NodeKind.SECTION:
            node = SectionNode(name, start, start, 0)
        else:
            node = Node(kind, name, start, start, None, None, type_name)
        own: list[Node] = []
        siblings = self._children
        while siblings and siblings[-1].start >= start:
            own.append(siblings.pop())
        own.reverse()
        self._open.append(node)
        self._outer.append(siblings)
        self._children = own
        self._values.append(None)

    def leave(self, end: int) -> None:
        node = self._open.pop()
        children, self._children = self._children, self._outer.pop()
        value = self._values.pop()
        node.end = max(end, node.start)
        if not children and node.end == node.start:
            return  # nothing of it is on the wire
        if node.kind in _COLLAPSIBLE:
            collapse(node, children, value)
        elif node.kind is NodeKind.RAM_ITEM:
            if self._lazy and isinstance(value, RAMItem) and value.block:
                self._ram_nodes += 1
                if self._ram_nodes > RAM_NODES_MAX:
                    self._gather(value.flags, value.block, 1, node.start, node.end)
                    return
            name_ram_item(node, value)
        node.children = children if node.role is None else ()
        if isinstance(node, SectionNode):
            self._describe_section(node)
        self._children.append(node)

    def read(self, what: str, start: int, end: int, value: int | str | bytes | None) -> None:
        role = _ROLES.get(what, Role.DATA)
        if role is Role.RAM_PAGE or (self._lazy and end - start > LEAF_BYTES_KEPT):
            value = None
        self._children.append(Node(NodeKind.FIELD, str(role), start, end, role, value))

    def array(self, start: int, size: int, values: list[int]) -> None:
        end = start + size * len(values)
        node = Node(NodeKind.FIELD, str(Role.FIELD), start, end, Role.FIELD)
        node.element_size = size
        node.value = None if self._lazy and end - start > LEAF_BYTES_KEPT else cast(Value, values)
        self._children.append(node)

    def value(self, value: object) -> None:
        if self._values:
            self._values[-1] = value

    def ram_run(
        self, flags: int, block: str, address: int, count: int, start: int, end: int
    ) -> None:
        self._ram_nodes += 1
        if self._lazy and self._ram_nodes > RAM_NODES_MAX:
            self._gather(flags, block, count, start, end)
            return
        self._children.append(RamRunNode(start, end, flags, block, address, count, self.page_size))

    def _gather(self, flags: int, block: str, count: int, start: int, end: int) -> None:
        """Add items to the span that ends where they begin, or begin one."""
        last = self._children[-1] if self._children else None
        if not isinstance(last, RamSpanNode) or last.block != block or last.end != start:
            last = RamSpanNode(f"{block}/items", start, end, block)
            self._children.append(last)
        kind = flags & ~RAMFlag.CONTINUE
        last.items[kind] = last.items.get(kind, 0) + count
        last.end = end

    def problem(self, error: LoadError) -> None:
        # A traceback would keep the whole load alive, stream and machine.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(error)
        else:
            self.problems_dropped += 1

    # -- for a load that has to find its footing --------------------------------------------

    @property
    def noted(self) -> int:
        """How many problems there have been."""
        return len(self.problems) + self.problems_dropped

    def open_names(self) -> tuple[str, ...]:
        """Names of the structures that are open, outermost first."""
        return tuple(node.name for node in self._open)

    def cut(self, offset: int) -> None:
        """Take back everything recorded in the open structure from ``offset`` on."""
        cut(self._children, offset)

    def add_opaque(self, start: int, end: int, role: Role = Role.OPAQUE) -> None:
        """A leaf over bytes that nothing was read from."""
        if end > start:
            self._children.append(Node(NodeKind.OPAQUE, str(role), start, end, role))

    def finish(self, size: int) -> Node:
        """Close what is open and return the root of a tree without gaps."""
        while self._open:
            self.leave(size)
        root = self._root
        root.end = size
        root.children = self._children
        for node in root.children:
            # Sections have taken their own: what is left ends the sections.
            if node.role is Role.SECTION_TYPE:
                node.name = "eof"
        settle(root)
        return root

    # -- sections ---------------------------------------------------------------------------

    def _describe_section(self, node: SectionNode) -> None:
        """Take what the header's leaves say into the node, and name it."""
        node.header_end = node.start
        for leaf in node.children:
            if leaf.role is Role.SECTION_TYPE:
                node.type = cast(int, leaf.value)
            elif leaf.role is Role.SECTION_ID:
                node.section_id = cast(int, leaf.value)
            elif leaf.role is Role.INSTANCE_ID:
                node.instance_id = cast(int, leaf.value)
            elif leaf.role is Role.VERSION_ID:
                node.version_id = cast(int, leaf.value)
            elif leaf.role is not Role.IDSTR:
                break
            node.header_end = leaf.end
            if node.type in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END) and (
                leaf.role is Role.SECTION_ID
            ):
                break
        node.idstr = node.name
        footer = node.footer
        node.payload_end = node.end if footer is None else footer.start
        if node.type == QEMU_VM_SECTION_FULL:
            if node.instance_id:
                node.name = f"{node.name}[{node.instance_id}]"
        elif node.type == QEMU_VM_SECTION_PART:
            turn = self._parts[node.name] = self._parts.get(node.name, -1) + 1
            node.name = f"{node.name}/PART[{turn}]"
        else:
            node.name = f"{node.name}/{_LIVE_LABELS.get(node.type, '')}"
