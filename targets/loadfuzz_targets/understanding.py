"""Makes out what stands in a stream, whosever machine it is from."""

from loadfuzz_targets.layouts import Layouts
from loadfuzz_targets.reference import TARGET as REFERENCE
from savevm.document import Document, Role


def understood(stream: bytes, layouts: Layouts) -> Document:
    """The stream as a Document, laid out as the reference's devices are; where they leave
    bytes unexplained, as its own vmdesc says, if that explains more.

    Args:
        stream: of any machine.
        layouts: what vmdescs have said so far.
    """
    document = REFERENCE.parse(stream)
    unexplained = _unexplained(document)
    if not unexplained:
        return document
    factory = layouts.factory_for(stream)
    if factory is None:
        return document
    other = Document.parse(stream, factory)
    return other if _unexplained(other) < unexplained else document


def _unexplained(document: Document) -> int:
    return sum(leaf.end - leaf.start for leaf in document.leaves(Role.OPAQUE))
