"""RAM blocks, the list of them, and how a memory region gets its name.

A block has a name on the wire (``idstr``) only once its region is registered:
``vmstate_register_ram`` composes it from the device's path and the region's
name.  A block without a name does not migrate.  Sources: ``RAMBlock`` and
``qemu_ram_*`` of QEMU ``exec.c``, ``vmstate_*register_ram*`` of the seed's
``migration/savevm.c``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from typing import Final

from savevm.constants import IDSTR_MAX
from savevm.errors import LoadError
from savevm.qemufile import Buffer
from savevm.ram.items import PAGE_SIZE_MAX, PAGE_SIZE_MIN
from savevm.ram.pages import DenseMemory, NoMemory, PageMemory
from savevm.registry import HasDevicePath

RAM_BLOCKS_MAX: Final = 1024
"""Blocks one machine may have.  Real ones have a dozen, and at most 256 memory
slots beside them; the bound keeps a list of names from growing on a lie."""


class RAMBlock:
    """One piece of guest RAM (``RAMBlock``).

    Args:
        page_size: bytes of a target page.
        used_length: bytes in use, a whole number of pages.
        max_length: bytes it may grow to when a stream says so; ``None`` for a
            block that is as long as it is.
        memory: what kind of memory its pages are kept in.

    Attributes:
        idstr: name on the wire; ``""`` for one that does not migrate.
        used_length, max_length: in bytes.
        resizeable: a load may change ``used_length`` (``RAM_RESIZEABLE``).
        memory: its pages.

    Raises:
        ValueError: a length is no whole number of pages, or they contradict.
    """

    __slots__ = ("idstr", "used_length", "max_length", "resizeable", "memory")

    def __init__(
        self,
        page_size: int,
        used_length: int,
        max_length: int | None = None,
        *,
        idstr: str = "",
        memory: Callable[[int, int], PageMemory] = DenseMemory,
    ) -> None:
        limit = used_length if max_length is None else max_length
        if used_length % page_size or limit % page_size or not 0 <= used_length <= limit:
            raise ValueError(
                f"a block of {used_length:#x} of {limit:#x} bytes: both must be whole pages of "
                f"{page_size:#x} bytes, the first no more than the second"
            )
        self.idstr = idstr
        self.used_length = used_length
        self.max_length = limit
        self.resizeable = max_length is not None
        self.memory = memory(page_size, limit // page_size)

    def __repr__(self) -> str:
        return f"RAMBlock({self.idstr!r}, {self.used_length:#x}/{self.max_length:#x})"

    @property
    def used_pages(self) -> int:
        """Pages in use."""
        return self.used_length // self.memory.page_size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on.

        Raises:
            ValueError: they are not all within ``used_length``.
        """
        self._check(offset, size)
        return self.memory.read(offset, size)

    def write(self, offset: int, data: Buffer) -> None:
        """The guest (or a device by DMA) writes; the pages become dirty.

        Raises:
            ValueError: the bytes do not all fall within ``used_length``.
        """
        self._check(offset, len(data))
        self.memory.write(offset, data)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.used_length:
            raise ValueError(f"{size:#x} bytes at {offset:#x} are not all in {self!r}")

    def resize(self, length: int) -> None:
        """Take the length a stream names (``qemu_ram_resize``): rounded up to
        pages; all pages become dirty if it changes.

        Raises:
            LoadError: the block's length is fixed, or too small for it.
        """
        page_size = self.memory.page_size
        new = (length + page_size - 1) // page_size * page_size
        if new == self.used_length:
            return
        if not self.resizeable or new > self.max_length:
            sign, bound, why = (
                (">", self.max_length, "Length too large")
                if self.resizeable
                else ("!=", self.used_length, "Length mismatch")
            )
            what = "at most" if self.resizeable else "length"
            raise LoadError(
                f"expected {what} {bound:#x}, read {length:#x}",
                errno=EINVAL,
                expected=bound,
                actual=length,
                qemu=f"{why}: {self.idstr}: 0x{new:x}{' in' if sign == '!=' else ''} "
                f"{sign} 0x{bound:x}",
            )
        self.used_length = new
        self.memory.touch()


@dataclass(frozen=True, slots=True, eq=False)
class MemoryRegion:
    """A named stretch of RAM that a device or the board owns (``MemoryRegion``).

    Attributes:
        name: its name among its owner's regions (``memory_region_name``).
        block: the RAM behind it (``memory_region_get_ram_addr``).
        ram: the list the block is in.
    """

    name: str
    block: RAMBlock
    ram: "RAMList"


class RAMList:
    """The RAM blocks of a machine, in the order they are listed on the wire
    (``ram_list``).

    Args:
        page_size: bytes of a target page, a power of two.

    Raises:
        ValueError: no target has such pages.
    """

    def __init__(self, page_size: int) -> None:
        if not PAGE_SIZE_MIN <= page_size <= PAGE_SIZE_MAX or page_size & (page_size - 1):
            raise ValueError(
                f"a page of {page_size} bytes: must be a power of two from {PAGE_SIZE_MIN} "
                f"to {PAGE_SIZE_MAX}"
            )
        self.page_size = page_size
        self.blocks: list[RAMBlock] = []

    def new_region(
        self, name: str, size: int, max_size: int | None = None, *, store: bool = True
    ) -> MemoryRegion:
        """RAM without a name on the wire (``memory_region_init_ram`` and
        ``_init_resizeable_ram``).

        Args:
            name: of the region.
            size: bytes in use, whole pages.
            max_size: bytes a stream may make it grow to; ``None`` for fixed.
            store: keep contents.

        Raises:
            ValueError: the sizes do not fit each other or the page size, or
                there are :data:`RAM_BLOCKS_MAX` blocks already.
        """
        if len(self.blocks) >= RAM_BLOCKS_MAX:
            raise ValueError(f"more than {RAM_BLOCKS_MAX} RAM blocks")
        memory = DenseMemory if store else NoMemory
        block = RAMBlock(self.page_size, size, max_size, memory=memory)
        self.blocks.append(block)
        return MemoryRegion(name, block, self)

    def add_block(
        self,
        idstr: str,
        used_length: int,
        max_length: int | None = None,
        *,
        store: bool = True,
    ) -> RAMBlock:
        """A block with a name of its own, off any bus.

        Raises:
            ValueError: the name is taken or does not fit, or the lengths are
                no whole pages.
        """
        _check_idstr(self.blocks, idstr)
        region = self.new_region(idstr, used_length, max_length, store=store)
        vmstate_register_ram_global(region)
        return region.block

    def migratable(self) -> list[RAMBlock]:
        """The blocks that have a name, in order."""
        return [block for block in self.blocks if block.idstr]

    def find_block(self, idstr: str) -> RAMBlock | None:
        """The block of that name, if there is one."""
        if not idstr:
            return None
        return next((block for block in self.blocks if block.idstr == idstr), None)


def vmstate_register_ram(mr: MemoryRegion, dev: HasDevicePath | None) -> None:
    """Give a region's RAM its name on the wire: the device's path, a slash and
    the region's name, or the region's name alone (``vmstate_register_ram``,
    ``qemu_ram_set_idstr``).

    Raises:
        ValueError: it has a name already, the name is another block's (QEMU
            aborts), or it does not fit.
    """
    path = dev.dev_path() if dev is not None else None
    idstr = mr.name if path is None else f"{path}/{mr.name}"
    if mr.block.idstr:
        raise ValueError(f"RAM block {mr.block.idstr!r} has a name already")
    _check_idstr(mr.ram.blocks, idstr)
    mr.block.idstr = idstr


def vmstate_unregister_ram(mr: MemoryRegion, dev: HasDevicePath | None) -> None:
    """Take the name away again: the RAM stays, but does not migrate
    (``vmstate_unregister_ram``, ``qemu_ram_unset_idstr``)."""
    del dev  # as in C, the path does not matter here
    mr.block.idstr = ""


def vmstate_register_ram_global(mr: MemoryRegion) -> None:
    """Name RAM that belongs to no device (``vmstate_register_ram_global``)."""
    vmstate_register_ram(mr, None)


def _check_idstr(blocks: list[RAMBlock], idstr: str) -> None:
    if not 0 < len(idstr.encode("latin-1")) <= IDSTR_MAX:
        raise ValueError(f"a block's name must have 1 to {IDSTR_MAX} bytes: {idstr[:40]!r}")
    if any(block.idstr == idstr for block in blocks):
        raise ValueError(f'RAMBlock "{idstr}" already registered, abort!')
