"""A real stream to take apart, and what must hold for every Document."""

from typing import Final

from savevm.document import Document

QEMU_NONE_STREAM: Final = (
    bytes.fromhex(
        "5145564d0000000307000000046e6f6e65"
        "01000000020372616d0000000000000004000000000000000400000000000000107e00000002"
        "030000000200000000000000107e00000002"
        "04000000000574696d65720000000000000002"
        "0000000000000000000000000000000000000000000000007e00000000"
        "04000000040b676c6f62616c737461746500000000000000010000000a7072656c61756e6368"
    )
    + bytes(91)
    + bytes.fromhex("7e000000040006000001e6")
    + b'{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", '
    b'"version": 2, "fields": [{"name": "cpu_ticks_offset", "type": "int64", "size": 8}, '
    b'{"name": "unused", "type": "unused_buffer", "size": 8}, '
    b'{"name": "cpu_clock_offset", "type": "int64", "size": 8}]}, '
    b'{"name": "globalstate", "instance_id": 0, "vmsd_name": "globalstate", "version": 1, '
    b'"fields": [{"name": "size", "type": "uint32", "size": 4}, '
    b'{"name": "runstate", "type": "buffer", "size": 100}]}]}'
)
"""What QEMU 7.2.22 writes for ``-M none -S -nodefaults``: 747 bytes."""


def fault_of(document: Document, data: bytes) -> str:
    """What is wrong with ``document`` as the Document of ``data``; empty if
    nothing is.

    Its leaves must cover every byte once and in order, every node must lie
    within its parent, every problem must have a place, and written back it must
    be ``data``.
    """
    position = 0
    for leaf in document.leaves():
        if leaf.start != position or leaf.end <= leaf.start:
            return f"{leaf!r} does not begin where the one before ends, {position:#x}"
        position = leaf.end
    if position != len(data) or document.size != len(data):
        return f"the leaves end at {position:#x} of {len(data):#x}"
    for node in document.walk():
        parent = node.parent
        if parent is not None and not parent.start <= node.start <= node.end <= parent.end:
            return f"{node!r} is not within {parent!r}"
        if (node.role is None) != bool(node.children) and node is not document.root:
            return f"{node!r} is neither leaf nor inner node"
    for problem in document.problems:
        if problem.offset is None or not 0 <= problem.offset <= len(data):
            return f"{problem} has no place in the stream"
    return "" if document.to_bytes() == data else "it does not write back the same"
