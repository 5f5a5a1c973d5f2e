"""RAM as it was at one moment, page by page: for blocks of many pages, few of which
a load changes."""

from dataclasses import dataclass

from loadfuzz_targets.memory import MemoryImage
from savevm.qemufile import Buffer
from savevm.ram import RAMBlock, RAMState
from savevm.ram.incoming import Incoming
from savevm.ram.outgoing import Outgoing


@dataclass(frozen=True, slots=True)
class _BlockPages:
    block: RAMBlock
    used_length: int
    pages: tuple[Buffer, ...]
    dirty: bytes

    def now(self) -> tuple[Buffer, ...]:
        memory = self.block.memory
        return tuple(memory.page_list(0, memory.pages))


class PageImage(MemoryImage):
    """Every block of sparse RAM, to compare with and to go back to.

    Sparse memory keeps its pages as they came: the pages that nobody has written
    are the very same objects as before, so that comparing a block costs a
    comparison of pointers a page, and going back only what has changed.

    Args:
        ram: is remembered as it is now; all of it sparse, none of it staged.
    """

    def __init__(self, ram: RAMState) -> None:
        self._ram = ram
        self._blocks = tuple(
            _BlockPages(
                block,
                block.used_length,
                tuple(block.memory.page_list(0, block.memory.pages)),
                bytes(block.memory.dirty),
            )
            for block in ram.blocks
        )

    def contents_unchanged(self) -> bool:
        """Whether blocks, lengths and all pages are as they were."""
        return len(self._ram.blocks) == len(self._blocks) and all(
            now is then.block and now.used_length == then.used_length and then.now() == then.pages
            for now, then in zip(self._ram.blocks, self._blocks, strict=True)
        )

    def restore(self) -> None:
        """Make everything as it was; loads and saves that broke off are forgotten."""
        ram = self._ram
        if ram.staged:
            ram.rollback()
        ram.incoming, ram.outgoing = Incoming(), Outgoing()
        ram.blocks[:] = [then.block for then in self._blocks]
        for then in self._blocks:
            memory = then.block.memory
            then.block.used_length = then.used_length
            for page, (now, before) in enumerate(zip(then.now(), then.pages, strict=True)):
                if now is not before:
                    memory.write(page * memory.page_size, before)
            memory.dirty[:] = then.dirty
