"""What there is to say about a stream, as plain data: the model behind ``inspect``.

:func:`describe` reads a Document; :func:`as_json` gives the shape that scripts
rely on.  How it looks on a screen is not decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from savevm.document.document import Document
from savevm.document.nodes import Node, RamRunNode, RamSpanNode, SectionNode, Value
from savevm.errors import LoadError
from savevm.foreign.text import parse_vmdesc
from savevm.ram.items import RAMFlag
from savevm.recording import NodeKind, Role

FIELDS_MAX: Final = 20_000
"""Fields one section is described with; a RAM section that jumps about has one
for every page, and their sums say more."""
BLOCKS_MAX: Final = 4096
"""RAM blocks one section is described with; a hostile list can name more."""

Json: TypeAlias = "int | float | str | bool | list[Json] | dict[str, Json] | None"


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
class BlockSummary:
    """Pages of one RAM block in one section.

    Attributes:
        name: of the block.
        length: in bytes, where the section's block list says it.
        pages, zero_pages, xbzrle_pages: items of each kind.
    """

    name: str
    length: int | None
    pages: int
    zero_pages: int
    xbzrle_pages: int


@dataclass(frozen=True, slots=True)
class RamSummary:
    """All RAM items of one section, added up.

    Attributes:
        pages, zero_pages, xbzrle_pages: items of each kind.
        blocks: by name, in the order they come.
    """

    pages: int
    zero_pages: int
    xbzrle_pages: int
    blocks: tuple[BlockSummary, ...]


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
    """Something a loader would have refused.

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
        _ram(section),
    )  # fmt: skip


def _payload(section: SectionNode) -> Iterator[Node]:
    for leaf in section.leaves():
        if section.header_end <= leaf.start < section.payload_end:
            yield leaf


# -- RAM -----------------------------------------------------------------------------------


class _Counts:
    """Items of one block while they are counted."""

    __slots__ = ("length", "kinds")

    def __init__(self) -> None:
        self.length: int | None = None
        self.kinds: dict[int, int] = {}

    def add(self, kind: int, items: int) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + items


def _ram(section: SectionNode) -> RamSummary | None:
    blocks: dict[str, _Counts] = {}
    any_item = False
    for node in section.children:
        if node.kind is not NodeKind.RAM_ITEM:
            continue
        any_item = True
        if isinstance(node, RamSpanNode):
            for kind, items in node.items.items():
                _add(blocks, node.block, kind, items)
        elif isinstance(node, RamRunNode):
            _add(blocks, node.block, node.flags & ~RAMFlag.CONTINUE, node.items)
        else:
            _add(blocks, node.name.rpartition("/")[0], _item_kind(node), 1)
            _lengths(node, blocks)
    if not any_item:
        return None
    summaries = tuple(_block(name, counts) for name, counts in blocks.items())
    return RamSummary(
        sum(b.pages for b in summaries),
        sum(b.zero_pages for b in summaries),
        sum(b.xbzrle_pages for b in summaries),
        summaries,
    )


def _add(blocks: dict[str, _Counts], block: str, kind: int, items: int) -> None:
    if kind in _COUNTED and (block in blocks or len(blocks) < BLOCKS_MAX):
        blocks.setdefault(block, _Counts()).add(kind, items)


_COUNTED: Final = frozenset({RAMFlag.PAGE, RAMFlag.ZERO, RAMFlag.XBZRLE})


def _block(name: str, counts: _Counts) -> BlockSummary:
    kinds = counts.kinds
    return BlockSummary(
        name, counts.length, kinds.get(RAMFlag.PAGE, 0), kinds.get(RAMFlag.ZERO, 0),
        kinds.get(RAMFlag.XBZRLE, 0),
    )  # fmt: skip


def _item_kind(node: Node) -> int:
    first = node.children[0] if node.children else node
    # Flags lie below the least page size (RAM items' first word).
    return first.value & 0x3FF & ~RAMFlag.CONTINUE if isinstance(first.value, int) else 0


def _lengths(node: Node, blocks: dict[str, _Counts]) -> None:
    """Take lengths out of a block list."""
    name = ""
    for leaf in node.leaves():
        if leaf.role is Role.RAM_NAME and isinstance(leaf.value, str):
            name = leaf.value
        elif leaf.role is Role.RAM_LENGTH and isinstance(leaf.value, int):
            if name in blocks or len(blocks) < BLOCKS_MAX:
                blocks.setdefault(name, _Counts()).length = leaf.value


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


# -- JSON ------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> dict[str, Json]:
    """The shape that scripts may rely on: size, sections with fields, problems;
    and machine, RAM sums and vmdesc beside them.  Bytes are hexadecimal."""
    vmdesc = inspection.vmdesc
    return {
        "size": inspection.size,
        "machine": inspection.machine,
        "sections": [_section_json(section) for section in inspection.sections],
        "others": [_line_json(line) for line in inspection.others],
        "vmdesc": None
        if vmdesc is None
        else {
            "start": vmdesc.start,
            "end": vmdesc.end,
            "page_size": vmdesc.page_size,
            "devices": vmdesc.devices,
        },
        "problems": [
            {"start": problem.start, "path": problem.path, "message": problem.message}
            for problem in inspection.problems
        ],
        "problems_dropped": inspection.problems_dropped,
    }


def _section_json(section: SectionReport) -> dict[str, Json]:
    ram = section.ram
    return {
        "type": section.type,
        "section_id": section.section_id,
        "idstr": section.idstr,
        "instance_id": section.instance_id,
        "version_id": section.version_id,
        "start": section.start,
        "end": section.end,
        "fields": [_line_json(line) for line in section.fields],
        "fields_dropped": section.fields_dropped,
        "opaque_bytes": section.opaque_bytes,
        "ram": None
        if ram is None
        else {
            "pages": ram.pages,
            "zero_pages": ram.zero_pages,
            "xbzrle_pages": ram.xbzrle_pages,
            "blocks": [
                {
                    "name": block.name,
                    "length": block.length,
                    "pages": block.pages,
                    "zero_pages": block.zero_pages,
                    "xbzrle_pages": block.xbzrle_pages,
                }
                for block in ram.blocks
            ],
        },
    }


def _line_json(line: FieldLine) -> dict[str, Json]:
    return {
        "path": line.path,
        "start": line.start,
        "end": line.end,
        "type": line.type,
        "value": _value_json(line.value),
    }


def _value_json(value: Value) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_value_json(item) for item in value]
    return value
