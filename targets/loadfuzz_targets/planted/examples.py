"""What examples of planted bugs are made from: the reference's seeds, as trees."""

from functools import cache

from loadfuzz_targets.reference import ReferenceTarget
from savevm.document import Document, Node, Role, SectionNode


@cache
def document(seed: str) -> Document:
    """The tree of the reference's seed of that name.

    Raises:
        KeyError: there is none.
    """
    target = ReferenceTarget()
    streams = {item.name: item.stream for item in target.seeds()}
    return target.parse(streams[seed])


def section(tree: Document, idstr: str, label: str = "FULL") -> SectionNode:
    """The first section of a device.

    Args:
        tree: of a stream.
        idstr: of the device.
        label: START, PART, END or FULL.

    Raises:
        StopIteration: there is none.
    """
    return next(s for s in tree.sections if (s.idstr, s.type_label) == (idstr, label))


def footer_leaf(tree: Document, idstr: str, role: Role, label: str = "FULL") -> Node:
    """The mark or the section id in a section's footer.

    Raises:
        StopIteration: it has no footer.
    """
    footer = section(tree, idstr, label).footer
    leaves = footer.leaves() if footer is not None else ()
    return next(leaf for leaf in leaves if leaf.role is role)


def with_value(seed: str, path: str, value: int | bytes) -> bytes:
    """A seed with one field changed, everything else as it was."""
    tree = document(seed)
    return tree.with_value(tree.find(path), value)
