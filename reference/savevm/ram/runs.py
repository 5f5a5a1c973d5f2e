"""Many regular items at once: the pages of a block one behind the other.

Nearly all of a RAM stream is runs of PAGE|CONTINUE or ZERO|CONTINUE items at
consecutive addresses.  One struct call decodes the words of a whole batch, one
comparison proves that they are such a run, and what is left to do per page is
the copy.  Whatever is not regular, or not whole in the buffer, is left to
:mod:`savevm.ram.load`; the result is the same, byte for byte and error for
error, as if it had done everything.

Nothing is waited for that need not come: only what is buffered already is
looked at, but for the item in hand and the word that must follow it.
"""

from functools import cached_property
from struct import Struct
from typing import TYPE_CHECKING, Final

from savevm.errors import LoadError
from savevm.qemufile import Buffer, QEMUFileReader
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import RAMFlag
from savevm.ram.report import RunReport

if TYPE_CHECKING:
    from savevm.ram.state import RAMState

BATCH: Final = 64
"""Items decoded by one struct call: enough that the call no longer shows beside
the copies, few enough that a short run wastes nothing."""

_WORD: Final = Struct(">Q")
_PAGE_NEXT: Final = RAMFlag.PAGE | RAMFlag.CONTINUE
_ZERO_NEXT: Final = RAMFlag.ZERO | RAMFlag.CONTINUE


class RunShape:
    """How items lie behind each other for one page size; made once per machine,
    since a struct of 64 items takes longer to make than to use."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size

    @cached_property
    def page_words(self) -> Struct:
        """The words of :data:`BATCH` PAGE items."""
        return Struct(">" + f"Q{self.page_size}x" * BATCH)

    @cached_property
    def zero_words(self) -> Struct:
        """The words of :data:`BATCH` ZERO items."""
        return Struct(">" + "Qx" * BATCH)


class RunReader:
    """Takes runs off one stream into one machine's RAM.

    Args:
        f: the stream.
        ram: the RAM.
        report: hears about runs; ``None`` in a load that is not recorded.
    """

    def __init__(self, f: QEMUFileReader, ram: "RAMState", report: RunReport | None) -> None:
        self._f = f
        self._ram = ram
        self._report = report
        self._page_size = ram.page_size
        self._flag_bits = ram.page_size - 1

    def read(self) -> None:
        """Take items as long as they are regular and whole in the buffer.

        Raises:
            LoadError: the source failed.
        """
        block = self._ram.incoming.last_block
        if block is None:
            return
        bound = self.bound_of(block)
        # Ends with the stream at the latest: each round takes an item or stops.
        while self._batch(block, bound):
            pass

    def bound_of(self, block: RAMBlock) -> int:
        """The first address that is past the end of a block."""
        seed = self._f.profile.ram_bound_is_max_length
        return block.max_length if seed else block.used_length

    def _batch(self, block: RAMBlock, bound: int) -> bool:
        f, size = self._f, self._page_size
        buffer, pos, end = f.window(_WORD.size)
        if end - pos < _WORD.size:
            return False
        word: int = _WORD.unpack_from(buffer, pos)[0]
        flags = word & self._flag_bits
        address = word - flags
        if (flags != _PAGE_NEXT and flags != _ZERO_NEXT) or address >= bound:
            return False
        item = _WORD.size + (size if flags == _PAGE_NEXT else 1)
        if end - pos < item:
            try:
                buffer, pos, end = f.window(item)
            except LoadError as error:
                raise error.within(block.idstr, f"page {address:#x}") from None
        limit = min(BATCH, (end - pos) // item, (bound - address) // size)
        if not limit:
            return False
        count = self._regular(buffer, pos, word, item, limit)
        first = address // size
        if flags == _PAGE_NEXT:
            with memoryview(buffer) as view:
                block.memory.put_pages(first, count, view, pos + _WORD.size, item)
        else:
            fills = bytes(buffer[pos + _WORD.size : pos + count * item : item])
            count -= len(fills.lstrip(b"\0"))
            if not count:
                return False
            block.memory.put_zero_pages(first, count)
        if self._ram.adopt:
            kind = flags & ~RAMFlag.CONTINUE
            self._ram.incoming.schedule.note(kind, block.idstr, first, count, named=False)
        if self._report is not None:
            self._report.add(flags, block.idstr, address, count, f.tell(), buffer, pos)
        f.advance(count * item)
        return True

    def _regular(self, buffer: Buffer, pos: int, word: int, item: int, limit: int) -> int:
        # How many of the next items' words follow each other page by page.
        size = self._page_size
        if limit == BATCH:
            shape = self._ram.run_shape
            words = shape.zero_words if item == _WORD.size + 1 else shape.page_words
            found = words.unpack_from(buffer, pos)
            if found == tuple(range(word, word + BATCH * size, size)):
                return BATCH
        unpack = _WORD.unpack_from
        count = 1
        while count < limit:
            pos += item
            word += size
            if unpack(buffer, pos)[0] != word:
                break
            count += 1
        return count
