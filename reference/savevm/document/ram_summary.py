"""RAM items of a section, added up by kind and block."""

from dataclasses import dataclass
from typing import Final

from savevm.document.nodes import Node, SectionNode
from savevm.document.ram_nodes import RamRunNode, RamSpanNode
from savevm.ram.items import RAMFlag
from savevm.recording import NodeKind, Role

BLOCKS_MAX: Final = 4096
"""RAM blocks one section is described with; a hostile list can name more."""


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


class _Counts:
    """Items of one block while they are counted."""

    __slots__ = ("length", "kinds")

    def __init__(self) -> None:
        self.length: int | None = None
        self.kinds: dict[int, int] = {}

    def add(self, kind: int, items: int) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + items


def ram_of(section: SectionNode) -> RamSummary | None:
    """The sums of one section; ``None`` if it carries no RAM."""
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
