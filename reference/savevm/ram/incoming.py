"""What a load of RAM remembers from one section to the next."""

from weakref import ReferenceType, ref

from savevm.qemufile import QEMUFileReader
from savevm.ram.blocks import RAMBlock
from savevm.ram.schedule import SaveSchedule


class Incoming:
    """A load under way (the statics of ``ram_load`` and of
    ``host_from_stream_offset``).

    Attributes:
        last_block: the block that an item with CONTINUE means.
        listed: names that block lists of this load have named.
        sections: sections of RAM since the machine exists (``seq_iter``).
        schedule: the pieces this load came in.
    """

    __slots__ = ("last_block", "listed", "sections", "schedule", "_reader")

    def __init__(self) -> None:
        self.last_block: RAMBlock | None = None
        self.listed: set[str] = set()
        self.sections = 0
        self.schedule = SaveSchedule()
        self._reader: ReferenceType[QEMUFileReader] | None = None

    def for_next_load(self) -> "Incoming":
        """What outlives a load: the count, and the last block where it does."""
        following = Incoming()
        following.last_block = self.last_block
        following.sections = self.sections
        return following

    def begin_section(self, f: QEMUFileReader, *, staged: bool) -> None:
        """A section of RAM begins, maybe the first one of a load.

        Whoever stages says where a load begins; without that, another file is
        another load.
        """
        known = self._reader is not None and (staged or self._reader() is f)
        if not known:
            self.listed = set()
            self.schedule = SaveSchedule()
            if not f.profile.ram_block_survives_loads:
                self.last_block = None
        self._reader = ref(f)
        self.sections += 1
        self.schedule.begin_section()
