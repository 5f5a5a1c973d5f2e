"""Loading one page in any of its four forms, and finding the block it is for.

Sources: ``host_from_stream_offset``, ``ram_handle_compressed`` and
``load_xbzrle`` of QEMU ``migration/ram.c`` (at the seed in ``arch_init.c``).
"""

from errno import EFAULT
from typing import Final

from savevm.errors import LoadError
from savevm.qemufile import Buffer
from savevm.ram.blocks import RAMBlock
from savevm.ram.context import LoadContext
from savevm.ram.items import ENCODING_FLAG_XBZRLE, RAMFlag, RAMItem
from savevm.ram.pages import NoMemory
from savevm.ram.xbzrle import DECODE_ERROR, xbzrle_decode_buffer
from savevm.recording import Role

_UNKNOWN_BLOCK_BYTES: Final = 1 << 64
"""As far as addresses go: a page of an unknown block is no fault of its own."""


class PageLoader:
    """Loads pages; part of what loads a section (:class:`savevm.ram.load.RAMLoader`).

    Args:
        context: the load.
    """

    def __init__(self, context: LoadContext) -> None:
        self.context = context

    def load_page(self, flags: int, address: int, start: int) -> None:
        """Load a ZERO, PAGE, XBZRLE or COMPRESS_PAGE item behind its word.

        Args:
            flags: the word's low bits.
            address: offset in the block.
            start: stream offset of the word.

        Raises:
            LoadError: the page is refused.
        """
        context = self.context
        f = context.f
        block = self.find_block(flags, address, start)
        context.at((block.idstr, f"page {address:#x}"), (block.idstr,))
        inside = self.check_address(block, flags, address, start)
        if f.trace is not None:
            f.trace("ram_load_loop", block.idstr, address, flags)
        kind = flags & ~RAMFlag.CONTINUE
        if kind == RAMFlag.PAGE:
            self.load_full_page(block if inside else None, address)
        elif kind == RAMFlag.ZERO:
            self.load_fill_page(block if inside else None, address)
        elif kind == RAMFlag.XBZRLE:
            self.load_xbzrle_page(block if inside else None, address)
        else:
            self.load_compressed_page(start)
        context.note(flags, block.idstr, address // context.page_size)
        if f.recorder is not None:
            f.recorder.value(RAMItem(flags, block.idstr, address))

    def find_block(self, flags: int, address: int, start: int) -> RAMBlock:
        """The block that the item names, or means by CONTINUE."""
        context = self.context
        incoming = context.incoming
        context.at((f"page {address:#x}",))
        if flags & RAMFlag.CONTINUE:
            if incoming.last_block is not None:
                return incoming.last_block
            idstr = ""
            context.complain(
                LoadError(
                    "CONTINUE before any block was named",
                    offset=start,
                    actual=flags,
                    qemu="Ack, bad migration stream!",
                )
            )
        else:
            name_at = context.f.tell()
            idstr = context.read_name()
            incoming.last_block = context.ram.find_block(idstr)
            if incoming.last_block is not None:
                return incoming.last_block
            context.complain(
                LoadError(
                    f"no RAM block {idstr!r} in this machine",
                    offset=name_at,
                    actual=idstr,
                    qemu=f"Can't find block {idstr}!",
                )
            )
        # A recording load goes on: what continues this item is in that block too.
        incoming.last_block = RAMBlock(
            context.page_size, _UNKNOWN_BLOCK_BYTES, idstr=idstr, memory=NoMemory
        )
        return incoming.last_block

    def check_address(self, block: RAMBlock, flags: int, address: int, start: int) -> bool:
        """Whether the page is inside its block."""
        context = self.context
        seed = context.profile.ram_bound_is_max_length
        bound = block.max_length if seed else block.used_length
        if address < bound:
            return True
        named = not flags & RAMFlag.CONTINUE
        if named:
            # C looks for a block of that name and size, and finds none.
            context.incoming.last_block = None
        context.complain(
            LoadError(
                f"address {address:#x} in a block of {bound:#x} bytes",
                offset=start,
                expected=bound,
                actual=address,
                qemu=f"Can't find block {block.idstr}!" if named else "Ack, bad migration stream!",
            )
        )
        context.incoming.last_block = block
        return False

    def load_full_page(self, block: RAMBlock | None, address: int) -> None:
        context = self.context
        size = context.page_size
        page = context.f.get_buffer(size, Role.RAM_PAGE)
        if block is None:
            return
        if len(page) == size:
            block.memory.put_pages(address // size, 1, memoryview(page), 0, size)
        else:
            # The end of a seed's stream: what came is in guest memory.
            block.memory.write(address, page)

    def load_fill_page(self, block: RAMBlock | None, address: int) -> None:
        context = self.context
        f, size = context.f, context.page_size
        offset = f.tell()
        fill = f.get_byte(Role.RAM_FILL)
        if fill and not context.profile.ram_fill_byte_unchecked:
            context.complain(
                LoadError(
                    f"expected fill byte 0x0, read {fill:#x}",
                    offset=offset,
                    expected=0,
                    actual=fill,
                    qemu=f"Found a zero page with value {fill}",
                )
            )
        elif block is not None:
            page = memoryview(bytes((fill,)) * size)
            block.memory.put_pages(address // size, 1, page, 0, size)

    def load_xbzrle_page(self, block: RAMBlock | None, address: int) -> None:
        context = self.context
        f, size = context.f, context.page_size
        start = f.tell()
        encoding = f.get_byte(Role.RAM_XBZRLE_FLAG)
        length = f.get_be16(Role.RAM_XBZRLE_LENGTH)
        fault = None
        if encoding != ENCODING_FLAG_XBZRLE:
            fault = LoadError(
                f"expected encoding {ENCODING_FLAG_XBZRLE:#x}, read {encoding:#x}",
                offset=start,
                expected=ENCODING_FLAG_XBZRLE,
                actual=encoding,
                qemu="Failed to load XBZRLE page - wrong compression!",
            )
        elif length > size:
            fault = LoadError(
                f"expected at most {size:#x} encoded bytes, read {length:#x}",
                offset=start + 1,
                expected=size,
                actual=length,
                qemu="Failed to load XBZRLE page - len overflow!",
            )
        if fault is not None:
            context.complain(fault)
        data = f.get_buffer(length, Role.RAM_XBZRLE_DATA)
        if fault is not None:
            return
        page = bytearray(size if block is None else block.memory.read(address, size))
        done = self.decode_xbzrle(data, page)
        if block is not None:
            # What C had decoded before it met a fault is in guest memory.
            block.memory.put_pages(address // size, 1, memoryview(page), 0, size)
        if done == DECODE_ERROR:
            context.complain(
                LoadError(
                    f"{length} encoded bytes do not describe a page",
                    offset=start + 3,
                    actual=data,
                    qemu="Failed to load XBZRLE page - decode error!",
                )
            )

    def decode_xbzrle(self, data: Buffer, page: bytearray) -> int:
        """Apply an encoding to a page; see :func:`xbzrle_decode_buffer`."""
        return xbzrle_decode_buffer(data, page)

    def load_compressed_page(self, start: int) -> None:
        """A page through zlib, which loadvm takes under neither profile."""
        context = self.context
        f, size = context.f, context.page_size
        # zlib's compressBound: what deflate makes of a page at worst.
        bound = size + (size >> 12) + (size >> 14) + (size >> 25) + 13
        seed = context.profile.ram_compress_page_dereferences_null
        if not seed:
            context.complain(
                LoadError(
                    "a compressed page, which loadvm does not take",
                    offset=start,
                    actual=int(RAMFlag.COMPRESS_PAGE),
                    qemu=f"Unknown combination of migration flags: {int(RAMFlag.COMPRESS_PAGE):#x}",
                )
            )
        offset = f.tell()
        length = f.get_be32(Role.COUNT)
        if length > bound:
            raise LoadError(
                f"expected at most {bound:#x} compressed bytes, read {length:#x}",
                offset=offset,
                path=context.path,
                expected=bound,
                actual=length,
                qemu=f"Invalid compressed data length: {length - (length >> 31 << 32)}",
            )
        if seed:
            context.complain(
                LoadError(
                    "a compressed page, and no buffer to read it into",
                    offset=start,
                    errno=EFAULT,
                    actual=int(RAMFlag.COMPRESS_PAGE),
                )
            )
        f.get_buffer(length, Role.DATA)
