"""Paths of what is not a node of its own: elements of arrays, pages of runs."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from savevm.document.nodes import Node, SectionNode
from savevm.document.ram_nodes import RamRunNode
from savevm.recording import NodeKind, Role

_ELEMENT: Final = re.compile(r"(.+)\[(\d{1,9})\]")
_PAGE: Final = re.compile(r"(.+/(?:START|END|PART\[\d+\]))/(.+)/(page|zero) (0x[0-9a-f]{1,16})")


def element_of(paths: Mapping[str, Node], path: str) -> Node | None:
    """The element of an array leaf that ``path`` names."""
    match = _ELEMENT.fullmatch(path)
    array = paths.get(match[1]) if match else None
    if match is None or array is None:
        return None
    try:
        return array.element(int(match[2]))
    except IndexError:
        return None


def page_in_runs(sections: Iterable[SectionNode], path: str) -> Node | None:
    """The item of a run of RAM pages that ``path`` names."""
    match = _PAGE.fullmatch(path)
    if match is None:
        return None
    where, block, kind, address = match[1], match[2], match[3], int(match[4], 16)
    for section in sections:
        if section.path != where:
            continue
        for run in section.children:
            if not isinstance(run, RamRunNode) or run.block != block:
                continue
            index, rest = divmod(address - run.address, run.page_size)
            if rest == 0 and 0 <= index < run.items and run.item_kind == kind:
                return _item(run, index, f"{block}/{kind} {address:#x}")
    return None


def _item(run: RamRunNode, index: int, name: str) -> Node:
    start, end = run.item_span(index)
    item = Node(NodeKind.RAM_ITEM, name, start, end)
    item.parent = run.parent
    middle = start + RamRunNode.WORD_SIZE
    address = run.item_address(index)
    header = Node(
        NodeKind.FIELD, str(Role.RAM_HEADER), start, middle, Role.RAM_HEADER, address | run.flags
    )
    assert run.role is not None
    body = Node(NodeKind.FIELD, str(run.role), middle, end, run.role)
    if run.role is Role.RAM_FILL:
        body.value = 0
    item.children = (header, body)
    header.parent = body.parent = item
    return item
