"""What there is to say about a stream, as plain data: the model behind ``inspect``.

:func:`describe` reads a Document; :func:`as_json` gives the shape that scripts
rely on.  How it looks on a screen is not decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from savevm.document.document import Document
from savevm.document.inspection_json import Json, as_json
from savevm.document.nodes import Node, SectionNode, Value
from savevm.document.ram_summary import BlockSummary, RamSummary, ram_of
from savevm.errors import LoadError
from savevm.foreign.text import parse_vmdesc
from savevm.recording import NodeKind, Role

__all__ = [
    "BlockSummary",
    "FieldLine",
    "Inspection",
    "Json",
    "ProblemLine",
    "RamSummary",
    "SectionReport",
    "VmdescSummary",
    "as_json",
    "describe",
    "problem_line",
]

FIELDS_MAX: Final = 20_000
"""Fields one section is described with; a RAM section that jumps about has one
for every page, and their sums say more."""


@dataclass(frozen=True, slots=True)
class FieldLine:
    """One leaf.

    Attributes:
        path: in the Document.
        start, end: half-open span.
        type: VMStateInfo name of a field, else its role.
        value: as understood; ``None`` if only the bytes say it.
        count: elements of an array, else 1.
    """

    path: str
    start: int
    end: int
    type: str
    value: Value
    count: int


@dataclass(frozen=True, slots=True)
class SectionReport:
    """One section.

    Attributes:
        type: ``START``, ``PART``, ``END`` or ``FULL``.
        path: in the Document.
        section_id: in its header.
        idstr: its name; for PART and END that of the section they continue.
        instance_id, version_id: ``None`` for PART and END.
        start, end: half-open span, header and footer included.
        fields: leaves of the payload.
        fields_dropped: how many more there are than are listed.
        opaque_bytes: bytes of the payload that were not understood.
        ram: sums, if it carries RAM.
    """

    type: str
    path: str
    section_id: int
    idstr: str
    instance_id: int | None
    version_id: int | None
    start: int
    end: int
    fields: tuple[FieldLine, ...]
    fields_dropped: int
    opaque_bytes: int
    ram: RamSummary | None


@dataclass(frozen=True, slots=True)
class ProblemLine:
    """One of a Document's problems: mostly what a loader would have refused.

    Attributes:
        start: offset of the offending value.
        path: where, as far as it is known.
        message: what is wrong.
    """

    start: int
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class VmdescSummary:
    """The description that a stream carries.

    Attributes:
        start, end: half-open span with type byte and size.
        page_size: bytes of a target page; ``None`` if the text is no vmdesc.
        devices: how many it describes.
    """

    start: int
    end: int
    page_size: int | None
    devices: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything about one stream.

    Attributes:
        size: in bytes.
        machine: name in the configuration section, if there is one.
        header: leaves before the first section.
        sections: in stream order.
        others: spans at top level that are no section: commands, junk, EOF.
        vmdesc: the description, if there is one.
        problems: in stream order.
        problems_dropped: how many more there were.
    """

    size: int
    machine: str | None
    header: tuple[FieldLine, ...]
    sections: tuple[SectionReport, ...]
    others: tuple[FieldLine, ...]
    vmdesc: VmdescSummary | None
    problems: tuple[ProblemLine, ...]
    problems_dropped: int


def describe(document: Document) -> Inspection:
    """Describe a Document."""
    header = [n for n in document.root.children if n.kind in _HEADER_KINDS]
    others = [
        n for n in document.root.children
        if not isinstance(n, SectionNode)
        and n.kind not in _HEADER_KINDS and n.kind is not NodeKind.VMDESC
    ]  # fmt: skip
    return Inspection(
        document.size,
        _machine(document),
        tuple(_line(leaf) for node in header for leaf in node.leaves()),
        tuple(_section(section) for section in document.sections),
        tuple(_line(leaf) for node in others for leaf in node.leaves()),
        _vmdesc(document),
        tuple(problem_line(error) for error in document.problems),
        document.problems_dropped,
    )


_HEADER_KINDS: Final = frozenset({NodeKind.HEADER, NodeKind.CONFIGURATION})


def problem_line(error: LoadError) -> ProblemLine:
    """One problem as data."""
    return ProblemLine(error.offset or 0, "/".join(error.path), error.reason)


def _line(leaf: Node) -> FieldLine:
    kind = leaf.type_name or str(leaf.role)
    return FieldLine(leaf.path, leaf.start, leaf.end, kind, leaf.value, leaf.count)


def _section(section: SectionNode) -> SectionReport:
    lines: list[FieldLine] = []
    dropped = opaque = 0
    for leaf in _payload(section):
        if leaf.role is Role.OPAQUE:
            opaque += leaf.size
        if len(lines) < FIELDS_MAX:
            lines.append(_line(leaf))
        else:
            dropped += 1
    return SectionReport(
        section.type_label, section.path, section.section_id, section.idstr, section.instance_id,
        section.version_id, section.start, section.end, tuple(lines), dropped, opaque,
        ram_of(section),
    )  # fmt: skip


def _payload(section: SectionNode) -> Iterator[Node]:
    for leaf in section.leaves():
        if section.header_end <= leaf.start < section.payload_end:
            yield leaf


# -- the rest --------------------------------------------------------------------------------


def _machine(document: Document) -> str | None:
    configuration = document.configuration
    if configuration is None:
        return None
    for leaf in configuration.leaves():
        if leaf.name == "name":
            return document.bytes_of(leaf).decode("latin-1")
    return None


def _vmdesc(document: Document) -> VmdescSummary | None:
    node = document.vmdesc
    if node is None:
        return None
    text = next((leaf for leaf in node.leaves() if leaf.role is Role.VMDESC), None)
    parsed = None if text is None else parse_vmdesc(document.bytes_of(text), document.size)
    if parsed is None:
        return VmdescSummary(node.start, node.end, None, 0)
    return VmdescSummary(node.start, node.end, parsed.page_size, len(parsed.devices))
