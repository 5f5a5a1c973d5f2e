"""A stream as a tree of nodes with byte spans, roles, paths and values.

::

    document = Document.parse(data)                    # never raises, any bytes
    document.to_bytes() == data                        # always
    document.problems                                  # list[LoadError], in stream order
    document.sections                                  # list[SectionNode]
    node = document.find("timer/cpu_clock_offset")     # Node; KeyError if absent
    document.leaves(role=Role.IDSTR)                   # iterator of leaf Nodes
    document.bytes_of(node)                            # the node's bytes

    document.with_value(node, 7)                       # bytes of the edited stream
    document.with_bytes(node, b"..", Consistency.KEEP)
    document.without(node)
    document.inserted(offset, b"...")
    document.duplicated(section), document.moved(section, offset)
    document.retyped(section, SectionType.FULL), document.renumbered(section, 9)
    document.edited([Edit(start, end, data), ...], Consistency.REPAIR)

There is one decoder: a Document is what a recording, lenient load leaves
behind (:class:`RecordingLoader` over a :class:`RecordingReader`), with opaque
nodes where loading had to stop and find its footing again.  The layout of a
device comes from ``machine_factory``'s machine, else from the vmdesc that the
stream carries, else only the section's footer is looked for.
"""

from savevm.document.document import Document
from savevm.document.edits import Consistency, Dependent, Edit
from savevm.document.nodes import Node, SectionNode, Value
from savevm.document.ram_nodes import RamRunNode, RamSpanNode
from savevm.recording import NodeKind, Role

__all__ = [
    "Consistency",
    "Dependent",
    "Document",
    "Edit",
    "Node",
    "NodeKind",
    "RamRunNode",
    "RamSpanNode",
    "Role",
    "SectionNode",
    "Value",
]
