"""What a save of RAM remembers from one section to the next."""

from typing import Final

from savevm.qemufile import Buffer
from savevm.ram.blocks import RAMBlock
from savevm.ram.schedule import SaveSchedule
from savevm.registry import MigrationParams

XBZRLE_CACHE_PAGES: Final = 16_384
"""Pages remembered for XBZRLE: 64 MiB of the usual size, as QEMU's default."""


class XBZRLECache:
    """What the destination has of each page, as far as it is remembered
    (``PageCache`` of QEMU ``migration/page_cache.c``).

    When it is full the page remembered longest makes room: QEMU's cache drops
    by hash instead, which would make what is sent depend on addresses.

    Args:
        limit: pages remembered at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pages: dict[tuple[str, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, block: RAMBlock, page: int) -> bytes | None:
        """What was sent last, if it is remembered."""
        return self._pages.get((block.idstr, page))

    def put(self, block: RAMBlock, page: int, content: Buffer) -> None:
        """This was sent now."""
        key = (block.idstr, page)
        if key not in self._pages and len(self._pages) >= self._limit:
            if not self._limit:
                return
            del self._pages[next(iter(self._pages))]
        self._pages[key] = bytes(content)


class Outgoing:
    """A save under way (the ``RAMState`` of QEMU's ``ram.c``).

    Attributes:
        params: what the operator asked for.
        block, page: where the search for dirty pages goes on.
        bulk_stage: the first round, in which nothing was sent before.
        rounds: how often the search came round.
        last_sent_block: the block of the last item.
        cache: for XBZRLE; ``None`` when it is not used.
        schedule: send in these pieces; ``None`` for our own order.
        next_section: number of the piece that is due.
    """

    __slots__ = (
        "params",
        "block",
        "page",
        "bulk_stage",
        "rounds",
        "last_sent_block",
        "cache",
        "schedule",
        "next_section",
    )

    def __init__(self, params: MigrationParams | None = None) -> None:
        self.params = params or MigrationParams()
        self.block = 0
        self.page = 0
        self.bulk_stage = True
        self.rounds = 0
        self.last_sent_block: RAMBlock | None = None
        self.cache: XBZRLECache | None = None
        self.schedule: SaveSchedule | None = None
        self.next_section = 0
