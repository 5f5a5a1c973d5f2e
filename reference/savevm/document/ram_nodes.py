"""Leaves that stand for many RAM items at once."""

from typing import Final

from savevm.document.nodes import Node
from savevm.ram.items import RAMFlag, kind_name
from savevm.recording import NodeKind, Role


class RamRunNode(Node):
    """A run of RAM items of one kind, equal size and consecutive addresses.

    It is one leaf, however long; its items are computed.

    Attributes:
        flags: flag bits of the items' headers.
        block: name of the RAM block.
        address: offset of the first page in its block.
        page_size: distance of addresses, bytes.
        items: how many.
    """

    __slots__ = ("flags", "block", "address", "page_size", "items")
    WORD_SIZE: Final = 8
    """Bytes of an item's first word."""

    def __init__(
        self,
        start: int,
        end: int,
        flags: int,
        block: str,
        address: int,
        items: int,
        page_size: int,
    ) -> None:
        role = Role.RAM_FILL if flags & RAMFlag.ZERO else Role.RAM_PAGE
        super().__init__(NodeKind.RAM_ITEM, "", start, end, role)
        self.flags = flags
        self.block = block
        self.address = address
        self.items = items
        self.page_size = page_size
        self._name()

    def _name(self) -> None:
        where = f"{self.address:#x}"
        if self.items > 1:
            where += f"-{self.item_address(self.items - 1):#x}"
        self.name = f"{self.block}/{self.item_kind} {where}"

    def shorten(self, offset: int) -> bool:
        """Keep the items that end at or before ``offset``; false if none does."""
        size = self.size // self.items
        items = (offset - self.start) // size
        if items < 1:
            return False
        self.items = min(items, self.items)
        self.end = self.start + self.items * size
        self._name()
        return True

    @property
    def item_kind(self) -> str:
        """``page`` or ``zero``, as in the path of an item."""
        return kind_name(self.flags)

    def item_span(self, index: int) -> tuple[int, int]:
        """Half-open span of item ``index``, its 8-byte header included.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= index < self.items:
            raise IndexError(f"{self.path} has no item {index}")
        size = self.size // self.items
        return self.start + index * size, self.start + (index + 1) * size

    def item_address(self, index: int) -> int:
        """Offset in the block of the page that item ``index`` is for."""
        return self.address + index * self.page_size


class RamSpanNode(Node):
    """RAM items of several kinds in one block, one behind the other: a leaf that
    stands for as many as a large file has, where a node for each would fill
    memory.

    Attributes:
        block: name of the RAM block.
        items: how many of each kind, by flag without CONTINUE.
    """

    __slots__ = ("block", "items")

    def __init__(self, name: str, start: int, end: int, block: str) -> None:
        super().__init__(NodeKind.RAM_ITEM, name, start, end, Role.RAM_PAGE)
        self.block = block
        self.items: dict[int, int] = {}
