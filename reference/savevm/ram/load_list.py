"""Loading the block list: names and lengths, and what may be wrong with them.

The list opens a stream's RAM.  It tells how long each block of the source was;
a block of ours that is resizeable takes that length, any other must have it.
Source: the ``RAM_SAVE_FLAG_MEM_SIZE`` case of QEMU's ``ram_load``.
"""

from typing import Final

from savevm.constants import UINT64_MAX
from savevm.errors import LoadError
from savevm.ram.context import LoadContext
from savevm.ram.items import RAMListEntry
from savevm.recording import NodeKind, Role

LIST_ENTRIES_MAX: Final = 65_536
"""Entries of one block list.  The total bounds it only as far as the lengths
are honest; no machine has that many blocks."""


class BlockListLoader:
    """Loads the block list; part of what loads a section
    (:class:`savevm.ram.load.RAMLoader`).

    Args:
        context: the load.
    """

    def __init__(self, context: LoadContext) -> None:
        self.context = context

    def load_block_list(self, total: int, start: int) -> None:
        """Load entries until ``total`` bytes are accounted for.

        Args:
            total: sum of all lengths as the item's word has it.
            start: stream offset of that word.

        Raises:
            LoadError: an entry is refused, or there is no end to them.
        """
        context = self.context
        f, recorder = context.f, context.f.recorder
        number = 0
        while total:
            if number == LIST_ENTRIES_MAX:
                raise LoadError(
                    f"a block list of more than {LIST_ENTRIES_MAX} blocks",
                    offset=start,
                    path=("block list",),
                    expected=LIST_ENTRIES_MAX,
                )
            if recorder is not None:
                recorder.enter(NodeKind.RAM_ITEM, f"block {number}", f.tell(), "block")
            try:
                length = self.load_entry(total)
            finally:
                if recorder is not None:
                    recorder.leave(f.tell())
            number += 1
            if context.profile.ram_list_unchecked:
                # As C's ram_addr_t does: an entry too long wraps it.
                total = (total - length) & UINT64_MAX
            else:
                total = max(total - length, 0)

    def load_entry(self, total: int) -> int:
        """One block of the list; return its length."""
        context = self.context
        f, ram = context.f, context.ram
        start = f.tell()
        context.at(("block list",))
        idstr = context.read_name()
        context.at(("block list", idstr), (idstr,))
        length_at = f.tell()
        length = f.get_be64(Role.RAM_LENGTH)
        if f.recorder is not None:
            f.recorder.value(RAMListEntry(idstr, length))
        if not context.profile.ram_list_unchecked:
            self.check_entry(RAMListEntry(idstr, length), total, start, length_at)
        block = ram.find_block(idstr)
        try:
            if block is not None:
                block.resize(length)
            elif ram.adopt and idstr:
                ram.adopt_block(idstr, length)
            else:
                raise LoadError(
                    f"no RAM block {idstr!r} in this machine",
                    actual=idstr,
                    qemu=f'Unknown ramblock "{idstr}", cannot accept migration',
                )
        except LoadError as error:
            error.offset = start if block is None else length_at
            context.complain(error)
        return length

    def check_entry(self, entry: RAMListEntry, total: int, start: int, length_at: int) -> None:
        context = self.context
        listed, length = context.incoming.listed, entry.length
        error = None
        if entry.idstr in listed:
            error = LoadError("the block is listed twice", offset=start, actual=entry.idstr)
        elif not length or length % context.page_size:
            error = LoadError(
                f"length {length:#x} is not one or more whole pages",
                offset=length_at,
                expected=context.page_size,
                actual=length,
            )
        elif length > total:
            error = LoadError(
                f"length {length:#x} with {total:#x} bytes of the total left",
                offset=length_at,
                expected=total,
                actual=length,
            )
        listed.add(entry.idstr)
        if error is not None:
            context.complain(error)
