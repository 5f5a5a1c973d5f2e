"""A memory device whose state must be there before RAM: an early section.

Where its fields come from: QEMU ``hw/virtio/virtio-mem.c``: a first section with
what must be equal, checked through a temporary state (``VMSTATE_WITH_TMP``), saved
before RAM (``early_setup``), and a bitmap of plugged blocks.
"""

from collections.abc import Callable
from typing import Final

from savevm.devices.base import Fault, SimDevice, device_vmsd, first_fault, outside, unlike
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

ADDRESS: Final = 0x1_0000_0000
BLOCK_SIZE: Final = 0x20_0000
BLOCKS: Final = 40
NODE: Final = 0


class SanityChecks(State):
    """What both sides must agree on (``VirtIOMEMMigSanityChecks``); lives only
    while it is saved or loaded.  The engine sets ``parent``."""

    parent: "MemoryDevice"

    def __init__(self) -> None:
        super().__init__()
        self.addr = 0
        self.region_size = 0
        self.block_size = 0
        self.node = 0

    def pre_save(self) -> int | None:
        """Take the device's values."""
        self.addr = ADDRESS
        self.region_size = BLOCKS * BLOCK_SIZE
        self.block_size = self.parent.block_size
        self.node = NODE
        return 0

    def check(self) -> Fault | None:
        """The source's values are ours."""
        return first_fault(
            (
                unlike("addr", self.addr, ADDRESS),
                unlike("region_size", self.region_size, BLOCKS * BLOCK_SIZE),
                unlike("block_size", self.block_size, self.parent.block_size),
                unlike("node", self.node, NODE),
            )
        )

    def post_load(self, version_id: int) -> int | None:
        """Refuse a source that was set up differently."""
        del version_id
        fault = self.parent.check_sanity(self)
        if fault is not None:
            raise fault.error()
        return 0


vmstate_sanity: Final = VMStateDescription(
    "memdev/sanity",
    1,
    1,
    fields=(
        fields.uint64("addr"),
        fields.uint64("region_size"),
        fields.uint64("block_size"),
        fields.uint32("node"),
    ),
    pre_save=lambda tmp: tmp.pre_save(),
    post_load=lambda tmp, version_id: tmp.post_load(version_id),
)
vmstate_memdev: Final = device_vmsd(
    "memdev",
    (
        fields.with_tmp(vmstate_sanity, SanityChecks, name="sanity"),
        fields.uint64("requested_blocks"),
        fields.uint64("plugged_blocks"),
        fields.bitmap("plugged", "blocks", bits_max=64),
    ),
    early_setup=True,
)


def bitmap_fault(s: "MemoryDevice") -> Fault | None:
    """No bit stands for a block that does not exist."""
    return outside("plugged", s.plugged >> BLOCKS, 0, 0)


def count_fault(s: "MemoryDevice") -> Fault | None:
    """The count is the bitmap's."""
    return unlike("plugged_blocks", s.plugged_blocks, s.plugged.bit_count())


def requested_fault(s: "MemoryDevice") -> Fault | None:
    """Nobody asked for more than there is."""
    return outside("requested_blocks", s.requested_blocks, 0, BLOCKS)


class MemoryDevice(SimDevice):
    """State of the device.

    Attributes:
        blocks, block_size: host's configuration.
        requested_blocks: what the host asks the guest to plug.
        plugged: bitmap of blocks that are plugged (B16: 40 bits travel in a
            word of 64).
        plugged_blocks: how many (B11).
    """

    name = "memdev"
    vmsd = vmstate_memdev
    invariants = (bitmap_fault, count_fault, requested_fault)

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        super().__init__()
        self.blocks = BLOCKS
        self.block_size = block_size

    def reset(self) -> None:
        self.requested_blocks = BLOCKS // 2
        self.plugged_blocks = 0
        self.plugged = 0

    # -- what a load checks ------------------------------------------------------------

    def check_sanity(self, source: SanityChecks) -> Fault | None:
        """The source was set up as we are."""
        return source.check()

    def check_bitmap(self) -> Fault | None:
        """B16."""
        return bitmap_fault(self)

    def check_count(self) -> Fault | None:
        """B11: two ways to say one thing agree."""
        return count_fault(self)

    def check_requested(self) -> Fault | None:
        """B03."""
        return requested_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_bitmap, self.check_count, self.check_requested)

    # -- running -----------------------------------------------------------------------

    def is_busy(self) -> bool:
        """Whether nothing may be changed now (``virtio_mem_is_busy``): this state
        travels at the beginning of a migration, and nobody sends it again."""
        return self.machine.migration_is_running

    def request(self, value: int) -> None:
        """The host asks for more or fewer blocks; the guest may have more."""
        if self.is_busy():
            return
        self.requested_blocks = value % (BLOCKS + 1)

    def plug(self, value: int) -> None:
        """The guest plugs or unplugs a block, up to what it was asked for; it is
        told to try again while a migration runs (``VIRTIO_MEM_RESP_BUSY``)."""
        if self.is_busy():
            return
        bit = 1 << value % BLOCKS
        if value & 0x80 or self.plugged_blocks >= self.requested_blocks:
            self.plugged &= ~bit
        else:
            self.plugged |= bit
        self.plugged_blocks = self.plugged.bit_count()
