"""Which field two streams of one machine differ in."""

from savevm.document import Document, Node


def first_changed(one: Document, other: Document, device: str) -> str:
    """Path of the first field of a device that has other bytes in ``other``; the
    device itself if no field has.

    Args:
        one: a stream.
        other: another one.
        device: its name, without its path on a bus.
    """
    before = dict(_fields(one, device))
    for path, (node, data) in _fields(other, device):
        known = before.get(path)
        if known is None or known[1] == data:
            continue
        size = node.element_size
        if size and len(data) == len(known[1]):
            for at in range(0, len(data), size):
                if data[at : at + size] != known[1][at : at + size]:
                    return f"{path}[{at // size}]"
        return path
    return device


def _fields(document: Document, device: str) -> list[tuple[str, tuple[Node, bytes]]]:
    stream = document.to_bytes()
    return [
        (f"{device}/{leaf.path.partition(section.path + '/')[2]}",
         (leaf, stream[leaf.start : leaf.end]))
        for section in document.sections
        if section.idstr.rpartition("/")[2] == device
        for leaf in section.fields
    ]  # fmt: skip
