"""RAMState: all RAM of a machine, as a live handler and as something to load.

It owns the blocks; what is under way in a save is in its :class:`Outgoing`,
what a load must remember from section to section in its :class:`Incoming`.
Staging covers all of it: after a rollback blocks, contents, dirty maps and
bookkeeping are as before.
"""

from dataclasses import dataclass
from errno import ENOMEM
from hashlib import blake2b
from typing import Final

from savevm.constants import TARGET_PAGE_SIZE
from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.ram.blocks import RAM_BLOCKS_MAX, RAMBlock, RAMList
from savevm.ram.incoming import Incoming
from savevm.ram.items import RAM_SAVE_VERSION
from savevm.ram.load import RAMLoader, ram_load
from savevm.ram.outgoing import XBZRLE_CACHE_PAGES, Outgoing
from savevm.ram.pages import NoMemory
from savevm.ram.runs import RunShape
from savevm.ram.save import (
    PAGES_PER_ITERATE,
    ram_is_active,
    ram_is_active_iterate,
    ram_save_cancel,
    ram_save_complete,
    ram_save_iterate,
    ram_save_pending,
    ram_save_setup,
    ram_set_params,
)
from savevm.ram.schedule import SaveSchedule
from savevm.ram.sparse import SparseMemory
from savevm.ram.xbzrle import ULEB128_SMALL_MAX
from savevm.registry import SaveStateEntry, SaveVMHandlers

ADOPT_PAGES_MAX: Final = 1 << 24
"""Pages that a stream's block list may bring into being where contents are
kept: 64 GiB of the usual size.  Each costs one byte before it arrives."""


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """What a rollback puts back, contents aside."""

    blocks: list[RAMBlock]
    lengths: list[int]
    incoming: Incoming


class RAMState(RAMList):
    """The RAM of one machine.

    Args:
        page_size: bytes of a target page.
        adopt: take over blocks that a stream names and the machine lacks, and
            remember in what order it sent them.
        store: whether adopted blocks keep their contents.
        xbzrle: from the second round on, send pages as differences.
        pages_per_iterate: pages one PART section may carry.
        xbzrle_cache_pages: pages remembered for XBZRLE.
        decode_runs: take regular items many at a time; the result is the same
            without, only slower.

    Attributes:
        incoming, outgoing: loads and saves under way.
        run_shape: how regular items of this page size lie behind each other.
        loader: what loads one section.

    Raises:
        ValueError: no target has such pages, or they are too large for XBZRLE.
    """

    def __init__(
        self,
        page_size: int = TARGET_PAGE_SIZE,
        *,
        adopt: bool = False,
        store: bool = True,
        xbzrle: bool = False,
        pages_per_iterate: int = PAGES_PER_ITERATE,
        xbzrle_cache_pages: int = XBZRLE_CACHE_PAGES,
        decode_runs: bool = True,
    ) -> None:
        super().__init__(page_size)
        if xbzrle and page_size > ULEB128_SMALL_MAX:
            raise ValueError(f"XBZRLE cannot describe a run of {page_size} bytes")
        if pages_per_iterate < 1:
            raise ValueError("a PART section must be able to carry a page")
        self.adopt = adopt
        self.store = store
        self.xbzrle = xbzrle
        self.pages_per_iterate = pages_per_iterate
        self.xbzrle_cache_pages = xbzrle_cache_pages
        self.decode_runs = decode_runs
        self.incoming = Incoming()
        self.outgoing = Outgoing()
        self.run_shape = RunShape(page_size)
        self.loader: type[RAMLoader] = RAMLoader
        self._before: _Before | None = None

    def register(self, machine: Machine) -> SaveStateEntry:
        """Become the RAM of ``machine``: the live handler "ram".

        Raises:
            ValueError: the machine's pages have another size.
        """
        if machine.page_size != self.page_size:
            raise ValueError(
                f"RAM with pages of {self.page_size} bytes on a machine with pages of "
                f"{machine.page_size}"
            )
        machine.ram = self
        handlers = SaveVMHandlers(
            set_params=ram_set_params,
            cancel=ram_save_cancel,
            save_live_setup=ram_save_setup,
            save_live_iterate=ram_save_iterate,
            save_live_complete=ram_save_complete,
            save_live_pending=ram_save_pending,
            is_active=ram_is_active,
            is_active_iterate=ram_is_active_iterate,
            load_state=ram_load,
        )
        return machine.savevm.register_savevm_live(None, "ram", 0, RAM_SAVE_VERSION, handlers, self)

    # -- as state --------------------------------------------------------------------

    def digest(self) -> str:
        """Hex digest of all blocks: names, lengths, and every byte in use."""
        hasher = blake2b(digest_size=16)
        for block in self.blocks:
            hasher.update(f"{block.idstr!r}:{block.used_length}:{block.max_length}:".encode())
            hasher.update(block.memory.digest(block.used_length))
        return hasher.hexdigest()

    def dirty_pages(self) -> int:
        """Pages that changed since they were last sent."""
        return sum(block.memory.dirty_count(block.used_pages) for block in self.migratable())

    def stage(self) -> None:
        """A load that may be taken back begins.

        Raises:
            RuntimeError: one is under way already.
        """
        if self._before is not None:
            raise RuntimeError("RAM is staged already")
        lengths = [block.used_length for block in self.blocks]
        self._before = _Before(self.blocks.copy(), lengths, self.incoming)
        self.incoming = self.incoming.for_next_load()
        for block in self.blocks:
            block.memory.stage()

    def commit(self) -> None:
        """Keep what was loaded since :meth:`stage`.

        Raises:
            RuntimeError: nothing is staged.
        """
        for block in self._end_staging().blocks:
            block.memory.commit()

    def rollback(self) -> None:
        """Put everything back as it was at :meth:`stage`.

        Raises:
            RuntimeError: nothing is staged.
        """
        before = self._end_staging()
        self.blocks = before.blocks
        self.incoming = before.incoming
        for block, length in zip(before.blocks, before.lengths, strict=True):
            block.used_length = length
            block.memory.rollback()

    @property
    def schedule(self) -> SaveSchedule | None:
        """The pieces of the stream this machine was built from, if it was and
        they are all remembered."""
        schedule = self.incoming.schedule
        return schedule if self.adopt and schedule.sections and schedule.complete else None

    @property
    def staged(self) -> bool:
        """Whether a load that may be taken back is under way."""
        return self._before is not None

    def _end_staging(self) -> _Before:
        before, self._before = self._before, None
        if before is None:
            raise RuntimeError("RAM is not staged")
        return before

    # -- taking over what a stream names ------------------------------------------------

    def adopt_block(self, idstr: str, length: int) -> RAMBlock:
        """Bring a block into being that a stream has named.  Its memory is
        taken as pages arrive.

        Raises:
            LoadError: there would be too many blocks or pages.
        """
        if len(self.blocks) >= RAM_BLOCKS_MAX:
            raise LoadError(
                f"more than {RAM_BLOCKS_MAX} blocks", errno=ENOMEM, expected=RAM_BLOCKS_MAX
            )
        length = (length + self.page_size - 1) // self.page_size * self.page_size
        if self.store:
            pages = sum(block.memory.pages for block in self.blocks) + length // self.page_size
            if pages > ADOPT_PAGES_MAX:
                raise LoadError(
                    f"{pages:#x} pages of RAM, at most {ADOPT_PAGES_MAX:#x} are kept",
                    errno=ENOMEM,
                    expected=ADOPT_PAGES_MAX,
                    actual=pages,
                )
        memory = SparseMemory if self.store else NoMemory
        block = RAMBlock(self.page_size, length, idstr=idstr, memory=memory)
        self.blocks.append(block)
        return block
