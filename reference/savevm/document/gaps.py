"""Making a tree cover its stream: taking back what was read too far, filling gaps."""

from savevm.document.nodes import Node, SectionNode
from savevm.document.ram_nodes import RamRunNode
from savevm.recording import NodeKind, Role


def cut(nodes: list[Node], offset: int) -> None:
    """Take back everything in ``nodes`` from ``offset`` on.

    Structures that reach over it end there; a value that does is gone, and a run
    keeps its whole items.
    """
    while True:
        while nodes and nodes[-1].start >= offset:
            nodes.pop()
        if not nodes or nodes[-1].end <= offset:
            return
        last = nodes[-1]
        if isinstance(last, RamRunNode) and last.shorten(offset):
            return
        last.end = offset
        if last.role is not None or not last.children:
            # Half a value is no value: the gap becomes opaque.
            nodes.pop()
            return
        if isinstance(last, SectionNode):
            last.payload_end = min(last.payload_end, offset)
        assert isinstance(last.children, list)
        nodes = last.children


def settle(root: Node) -> None:
    """Fill gaps with opaque leaves and tell every node its parent."""
    stack = [root]
    while stack:
        parent = stack.pop()
        children = parent.children
        position = parent.start
        tight = True
        for node in children:
            node.parent = parent
            if node.start != position:
                tight = False
            position = node.end
            if node.role is None:
                stack.append(node)
        if tight and position == parent.end:
            continue
        filled: list[Node] = []
        position = parent.start
        for node in children:
            _fill(filled, parent, position, node.start)
            filled.append(node)
            position = node.end
        _fill(filled, parent, position, parent.end)
        parent.children = filled


def _fill(filled: list[Node], parent: Node, start: int, end: int) -> None:
    if start < end:
        gap = Node(NodeKind.OPAQUE, str(Role.OPAQUE), start, end, Role.OPAQUE)
        gap.parent = parent
        filled.append(gap)
