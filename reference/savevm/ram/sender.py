"""Writing the items of one section: which page in which form.

Items are gathered and handed to the file many at a time; each page is copied
once on the way, so what the guest writes afterwards does not change what was
sent.  Sources: ``save_page_header``, ``save_zero_page``, ``save_xbzrle_page``
and ``ram_save_page`` of QEMU ``migration/ram.c``.
"""

from struct import Struct, pack, unpack
from typing import Final

from savevm.qemufile import Buffer, QEMUFileWriter
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import ENCODING_FLAG_XBZRLE, RAMFlag
from savevm.ram.outgoing import Outgoing, XBZRLECache
from savevm.ram.xbzrle import xbzrle_encode_buffer

BATCH_PAGES: Final = 64
"""Pages handed to the file at once: 256 KiB stay in a processor's cache."""

_WORD: Final = Struct(">Q")
_FILL: Final = b"\0"


class SectionSender:
    """Writes one section's items.

    Args:
        f: the stream.
        outgoing: the save this section belongs to.
        page_size: bytes of a page.
        last_stage: the guest does not run any more.
    """

    def __init__(
        self, f: QEMUFileWriter, outgoing: Outgoing, page_size: int, *, last_stage: bool = False
    ) -> None:
        self._f = f
        self._outgoing = outgoing
        self._page_size = page_size
        self._last_stage = last_stage
        self._pieces: list[Buffer] = []

    def send_block_list(self, blocks: list[RAMBlock]) -> None:
        """The item that opens a stream's RAM."""
        total = sum(block.used_length for block in blocks)
        self._pieces.append(_WORD.pack(total | RAMFlag.MEM_SIZE))
        for block in blocks:
            name = block.idstr.encode("latin-1")
            self._pieces += (bytes((len(name),)), name, _WORD.pack(block.used_length))

    def send_bare(self, flags: int) -> None:
        """An item that is nothing but its word."""
        self._pieces.append(_WORD.pack(flags))

    def send_pages(self, block: RAMBlock, first: int, count: int) -> None:
        """Pages as they are now, in the form that suits each; they are clean then."""
        block.memory.mark_clean(first, count)
        cache = self._outgoing.cache
        if cache is None or self._outgoing.bulk_stage:
            self._send_plain(block, first, count, block.memory.zero_pages(first, count))
            return
        for page in range(first, first + count):
            zero = block.memory.zero_pages(page, 1)
            if zero:
                # Or the next difference would be against what was there before.
                cache.put(block, page, bytes(self._page_size))
            elif self._send_difference(block, page, cache):
                continue
            self._send_plain(block, page, 1, zero)

    def send_scheduled(self, block: RAMBlock, first: int, count: int, *, full: bool) -> None:
        """Pages that another sender sent here, too.

        Args:
            block: the block.
            first: number of the first page.
            count: how many.
            full: they came in full.  Otherwise a zero page is sent as such, and
                another only if it is dirty: repeating a page in full that came
                in few bytes would make a save much longer than the load was.
        """
        memory, end = block.memory, first + count
        for page in range(first, end, BATCH_PAGES):
            some = min(BATCH_PAGES, end - page)
            zeros = [] if full else memory.zero_pages(page, some)
            due = bytearray(memory.dirty[page : page + some])
            for number in range(page, page + some) if full else zeros:
                due[number - page] = 1
            memory.mark_clean(page, some)
            at = 0
            while (at := due.find(1, at)) >= 0:
                stop = due.find(0, at)
                stop = some if stop < 0 else stop
                run = [number for number in zeros if at <= number - page < stop]
                self._send_plain(block, page + at, stop - at, run)
                at = stop
            self.flush()

    def _send_plain(self, block: RAMBlock, first: int, count: int, zeros: list[int]) -> None:
        """PAGE items, and ZERO items for the pages numbered in ``zeros``."""
        size = self._page_size
        word = first * size | RAMFlag.PAGE | RAMFlag.CONTINUE
        words = pack(f">{count}Q", *range(word, word + count * size, size))
        items: list[Buffer] = [b""] * (2 * count)
        items[0::2] = unpack("8s" * count, words)
        items[1::2] = block.memory.page_list(first, count)
        for page in zeros:
            at = 2 * (page - first)
            items[at] = _WORD.pack(page * size | RAMFlag.ZERO | RAMFlag.CONTINUE)
            items[at + 1] = _FILL
        if block is not self._outgoing.last_sent_block:
            flag = RAMFlag.ZERO if first in zeros[:1] else RAMFlag.PAGE
            items[0] = self._word(block, first * size, flag)
        self._pieces += items

    def _send_difference(self, block: RAMBlock, page: int, cache: XBZRLECache) -> bool:
        """Send an XBZRLE item, or nothing if nothing changed; false if the page
        must be sent in full."""
        old, new = cache.get(block, page), bytes(block.memory.page_list(page, 1)[0])
        encoded = None
        if old is not None:
            encoded = xbzrle_encode_buffer(old, new, self._page_size)
        if not self._last_stage:
            cache.put(block, page, new)
        if encoded is None:
            return False
        if encoded:
            self._pieces += (
                self._word(block, page * self._page_size, RAMFlag.XBZRLE),
                bytes((ENCODING_FLAG_XBZRLE,)),
                len(encoded).to_bytes(2, "big"),
                encoded,
            )
        return True

    def _word(self, block: RAMBlock, address: int, flag: int) -> bytes:
        if block is self._outgoing.last_sent_block:
            return _WORD.pack(address | flag | RAMFlag.CONTINUE)
        self._outgoing.last_sent_block = block
        name = block.idstr.encode("latin-1")
        return b"".join((_WORD.pack(address | flag), bytes((len(name),)), name))

    def flush(self) -> None:
        """Hand what was gathered to the file."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._f.put_buffer_async(b"".join(pieces))
