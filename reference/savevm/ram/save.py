"""Saving RAM: block list, rounds of dirty pages, and what is left at the end.

Theory of operation.  Setup marks every page dirty and sends the block list.
Each iteration goes on where the last one stopped, sends dirty pages in order
and marks them clean; what the guest writes meanwhile is dirty again.  The
second time round, XBZRLE has something to compare with.  Completion sends
whatever is dirty still.  A machine that was built from a stream repeats the
pieces and the order of that stream instead.

Sources: ``ram_save_setup``, ``ram_save_iterate``, ``ram_find_and_save_block``,
``ram_save_complete`` and ``ram_save_pending`` of QEMU ``migration/ram.c``.
"""

from errno import EBUSY, ENOTSUP
from typing import TYPE_CHECKING, Final

from savevm.qemufile import QEMUFileWriter
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import RAMFlag
from savevm.ram.outgoing import Outgoing, XBZRLECache
from savevm.ram.schedule import SaveSchedule, ScheduledRun
from savevm.ram.sender import BATCH_PAGES, SectionSender
from savevm.registry import MigrationParams
from savevm.vmstate.description import Opaque

if TYPE_CHECKING:
    from savevm.ram.state import RAMState

PAGES_PER_ITERATE: Final = 16_384
"""Pages one PART section carries unless told otherwise.  QEMU stops after 50 ms;
without a wall clock, what memory of 1.3 GB/s moves in that time: 64 MiB."""


def ram_set_params(params: MigrationParams, opaque: Opaque) -> None:
    """Remember what the operator asked for; RAM itself needs none of it."""
    ram: RAMState = opaque
    ram.outgoing.params = params


def ram_is_active(opaque: Opaque) -> bool:
    """RAM takes part in every save: without blocks too, by an empty list."""
    del opaque
    return True


def ram_save_setup(f: QEMUFileWriter, opaque: Opaque) -> int:
    """START: the block list.

    Returns:
        0, or ``-ENOTSUP`` if a block does not keep what it is given.
    """
    ram: RAMState = opaque
    blocks = ram.migratable()
    if not all(block.memory.stores for block in blocks):
        return -ENOTSUP
    outgoing = ram.outgoing = Outgoing(ram.outgoing.params)
    if ram.xbzrle:
        outgoing.cache = XBZRLECache(ram.xbzrle_cache_pages)
    outgoing.schedule = ram.schedule
    for block in blocks:
        block.memory.mark_dirty(0, block.used_pages)
    sender = SectionSender(f, outgoing, ram.page_size)
    if outgoing.schedule is None:
        sender.send_block_list(blocks)
    else:
        _forget_unsent_zeros(outgoing.schedule, blocks)
        _send_scheduled_section(sender, ram)
    sender.send_bare(RAMFlag.EOS)
    sender.flush()
    return 0


def ram_is_active_iterate(opaque: Opaque) -> bool:
    """Whether a PART section follows; not if the stream to be sent again, in the
    pieces it came in, had none (left)."""
    ram: RAMState = opaque
    outgoing = ram.outgoing
    return outgoing.schedule is None or outgoing.next_section < len(outgoing.schedule.sections) - 1


def ram_save_iterate(f: QEMUFileWriter, opaque: Opaque) -> int:
    """PART: dirty pages until the rate or the page budget is used up.

    Returns:
        Negative errno; 0 if there are dirty pages still; 1 if there are none.
    """
    ram: RAMState = opaque
    outgoing = ram.outgoing
    sender = SectionSender(f, outgoing, ram.page_size)
    if outgoing.schedule is not None:
        last = len(outgoing.schedule.sections) - 1
        if outgoing.next_section < last:
            _send_scheduled_section(sender, ram)
        done = outgoing.next_section >= last
    else:
        outgoing.last_sent_block = None
        _send_dirty(sender, f, ram, ram.pages_per_iterate)
        done = not ram.dirty_pages()
    sender.send_bare(RAMFlag.EOS)
    sender.flush()
    return f.get_error() or int(done)


def ram_save_complete(f: QEMUFileWriter, opaque: Opaque) -> int:
    """END: whatever is dirty still; the guest does not run any more.

    Returns:
        0 or negative errno.  ``-EBUSY`` says that another save of this RAM began
        or ended while the file waited for its sink: it took dirty pages away.
    """
    ram: RAMState = opaque
    outgoing = ram.outgoing
    sender = SectionSender(f, outgoing, ram.page_size, last_stage=True)
    if outgoing.schedule is not None:
        while outgoing.next_section < len(outgoing.schedule.sections):
            _send_scheduled_section(sender, ram)
    else:
        outgoing.last_sent_block = None
    _send_dirty(sender, None, ram, ram.dirty_pages())
    sender.send_bare(RAMFlag.EOS)
    sender.flush()
    if ram.outgoing is not outgoing:
        return -EBUSY
    ram.outgoing = Outgoing(outgoing.params)
    return f.get_error()


def ram_save_pending(f: QEMUFileWriter, opaque: Opaque, max_size: int) -> int:
    """Bytes of dirty pages.

    Args:
        f: not needed.
        opaque: the :class:`~savevm.ram.state.RAMState`.
        max_size: what the caller could still send; below it QEMU looks for
            newly dirty pages, of which we always know.
    """
    del f, max_size
    ram: RAMState = opaque
    outgoing = ram.outgoing
    if outgoing.schedule is not None:
        # The sender of that stream sent this many parts, whatever was left.
        if outgoing.next_section >= len(outgoing.schedule.sections) - 1:
            return 0
        return max(ram.dirty_pages(), 1) * ram.page_size
    return ram.dirty_pages() * ram.page_size


def ram_save_cancel(opaque: Opaque) -> None:
    """The save will not be finished: forget how far it was."""
    ram: RAMState = opaque
    ram.outgoing = Outgoing()


# -- in our own order ----------------------------------------------------------------


def _send_dirty(
    sender: SectionSender, limited: QEMUFileWriter | None, ram: "RAMState", budget: int
) -> None:
    """Send up to ``budget`` dirty pages, stopping when ``limited`` says so."""
    blocks = ram.migratable()
    while budget and not (limited is not None and limited.rate_limited()):
        found = _find_dirty(ram.outgoing, blocks)
        if found is None:
            break
        block, first = found
        # With a rate to keep, the file is asked after each page as in QEMU.
        paced = limited is not None and limited.get_rate_limit() > 0
        most = min(budget, 1 if paced else BATCH_PAGES, block.used_pages - first)
        clean = block.memory.dirty.find(0, first, first + most)
        count = most if clean < 0 else clean - first
        sender.send_pages(block, first, count)
        sender.flush()
        ram.outgoing.page = first + count
        budget -= count


def _find_dirty(outgoing: Outgoing, blocks: list[RAMBlock]) -> tuple[RAMBlock, int] | None:
    """The next dirty page from where the search stopped, coming round once."""
    if not blocks:
        return None
    for _ in range(len(blocks) + 1):
        if outgoing.block >= len(blocks):
            outgoing.block = outgoing.page = 0
            outgoing.bulk_stage = False
            outgoing.rounds += 1
        block = blocks[outgoing.block]
        page = block.memory.next_dirty(outgoing.page, block.used_pages)
        if page >= 0:
            return block, page
        outgoing.block += 1
        outgoing.page = 0
    return None


# -- in the order of the stream the machine was built from -------------------------------


def _forget_unsent_zeros(schedule: SaveSchedule, blocks: list[RAMBlock]) -> None:
    """Pages that the stream never sent and that are zero need no sending: they
    are zero wherever its blocks are built anew."""
    sent = {block.idstr: bytearray(block.used_pages) for block in blocks}
    for section in schedule.sections:
        for run in section:
            if run.block in sent:
                sent[run.block][run.first : run.first + run.count] = b"\1" * run.count
    for block in blocks:
        pages = sent[block.idstr]
        for page in block.memory.zero_pages(0, block.used_pages):
            if not pages[page]:
                block.memory.mark_clean(page, 1)


def _send_scheduled_section(sender: SectionSender, ram: "RAMState") -> None:
    outgoing = ram.outgoing
    schedule = outgoing.schedule
    assert schedule is not None
    for run in schedule.sections[outgoing.next_section]:
        _send_scheduled_run(sender, ram, run)
    outgoing.next_section += 1


def _send_scheduled_run(sender: SectionSender, ram: "RAMState", run: ScheduledRun) -> None:
    if run.kind == RAMFlag.MEM_SIZE:
        sender.send_block_list(ram.migratable())
    elif run.kind == RAMFlag.MULTIFD_FLUSH:
        sender.send_bare(run.kind)
    else:
        block = ram.find_block(run.block)
        if block is None:
            return
        if run.named:
            ram.outgoing.last_sent_block = None
        count = max(min(run.count, block.used_pages - run.first), 0)
        sender.send_scheduled(block, run.first, count, full=run.kind == RAMFlag.PAGE)
