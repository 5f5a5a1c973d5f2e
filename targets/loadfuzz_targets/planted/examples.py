"""What examples of planted bugs are made from: the reference's seeds, as trees."""

from collections.abc import Mapping
from functools import cache

from loadfuzz_targets.reference import ReferenceTarget
from savevm.document import Document, Node, Role, SectionNode
from savevm.ram.items import RAMFlag


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


def with_values(seed: str, values: Mapping[str, int]) -> bytes:
    """A seed with several fields of fixed size changed."""
    tree = document(seed)
    stream = bytearray(tree.to_bytes())
    for path, value in values.items():
        leaf = tree.find(path)
        stream[leaf.start : leaf.end] = value.to_bytes(leaf.size, "big")
    return bytes(stream)


def virtio_with(offset: int, size: int, value: int) -> bytes:
    """The console's section with one number changed; it has no description, so the
    number is known by its place in the payload."""
    tree = document("full-ran")
    start = section(tree, "virtio-console").header_end + offset
    stream = tree.to_bytes()
    return stream[:start] + value.to_bytes(size, "big") + stream[start + size :]


def twice_the_key() -> bytes:
    """A disk with two remapped sectors, the second of which has the first's key."""
    tree = document("disk-busy")
    keys = [
        leaf
        for leaf in section(tree, "disk").leaves()
        if leaf.path.startswith("disk/remapped") and leaf.size == 8
    ][::3]
    stream = bytearray(tree.to_bytes())
    first, second = keys[0], keys[1]
    stream[second.start : second.end] = stream[first.start : first.end]
    return bytes(stream)


def page_headers(tree: Document) -> list[Node]:
    """The words of single PAGE items, in stream order."""
    return [
        leaf for leaf in tree.leaves() if leaf.role is Role.RAM_HEADER and "/page 0x" in leaf.path
    ]


def continued_first_page() -> bytes:
    """A stream whose first page is said to be of the same block as the one before."""
    tree = document("ram-ran")
    leaves = list(tree.leaves())
    at = next(
        at
        for at, leaf in enumerate(leaves)
        if leaf.role is Role.RAM_NAME and leaf.path.startswith("ram/PART")
    )
    first, name = leaves[at - 1], leaves[at]
    word = int.from_bytes(tree.bytes_of(first), "big") | RAMFlag.CONTINUE
    stream = tree.to_bytes()
    return stream[: first.start] + word.to_bytes(8, "big") + stream[name.end :]
