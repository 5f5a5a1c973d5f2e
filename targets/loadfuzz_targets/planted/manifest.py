"""Every planted bug, one for each class of real ones, in the order of the classes."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.cpu_exception_error import CPU_EXCEPTION_ERROR
from loadfuzz_targets.planted.cpu_registers import CPU_REGISTERS
from loadfuzz_targets.planted.cpu_vector import CPU_VECTOR
from loadfuzz_targets.planted.disk_append import DISK_APPEND
from loadfuzz_targets.planted.disk_bounce import DISK_BOUNCE
from loadfuzz_targets.planted.disk_duplicate_key import DISK_DUPLICATE_KEY
from loadfuzz_targets.planted.disk_host_pointer import DISK_HOST_POINTER
from loadfuzz_targets.planted.disk_sector_overflow import DISK_SECTOR_OVERFLOW
from loadfuzz_targets.planted.disk_sentinel import DISK_SENTINEL
from loadfuzz_targets.planted.disk_transfer import DISK_TRANSFER
from loadfuzz_targets.planted.eof_boundary import EOF_BOUNDARY
from loadfuzz_targets.planted.footer_id import FOOTER_ID
from loadfuzz_targets.planted.footer_own_id import FOOTER_OWN_ID
from loadfuzz_targets.planted.fpu_format import FPU_FORMAT
from loadfuzz_targets.planted.hpet_early_irq import HPET_EARLY_IRQ
from loadfuzz_targets.planted.intc_late_count import INTC_LATE_COUNT
from loadfuzz_targets.planted.intc_masks import INTC_MASKS
from loadfuzz_targets.planted.intc_priority import INTC_PRIORITY
from loadfuzz_targets.planted.kinds_label import KINDS_LABEL
from loadfuzz_targets.planted.kinds_negative_count import KINDS_NEGATIVE_COUNT
from loadfuzz_targets.planted.nic_mac_signed import NIC_MAC_SIGNED
from loadfuzz_targets.planted.nic_mac_unit import NIC_MAC_UNIT
from loadfuzz_targets.planted.nic_vfs import NIC_VFS
from loadfuzz_targets.planted.peek_once import PEEK_ONCE
from loadfuzz_targets.planted.ps2_ring_walk import PS2_RING_WALK
from loadfuzz_targets.planted.ram_commit import RAM_COMMIT
from loadfuzz_targets.planted.ram_list_loop import RAM_LIST_LOOP
from loadfuzz_targets.planted.ram_no_block import RAM_NO_BLOCK
from loadfuzz_targets.planted.ram_run_bound import RAM_RUN_BOUND
from loadfuzz_targets.planted.ram_stale_block import RAM_STALE_BLOCK
from loadfuzz_targets.planted.rtc_catch_up import RTC_CATCH_UP
from loadfuzz_targets.planted.rtc_index import RTC_INDEX
from loadfuzz_targets.planted.runstate_endless import RUNSTATE_ENDLESS
from loadfuzz_targets.planted.sdcard_mode import SDCARD_MODE
from loadfuzz_targets.planted.sdcard_old_version import SDCARD_OLD_VERSION
from loadfuzz_targets.planted.sdcard_positive import SDCARD_POSITIVE
from loadfuzz_targets.planted.section_twice import SECTION_TWICE
from loadfuzz_targets.planted.serial_divider import SERIAL_BRGR
from loadfuzz_targets.planted.serial_no_rate import SERIAL_NO_RATE
from loadfuzz_targets.planted.subsection_lookalike import SUBSECTION_LOOKALIKE
from loadfuzz_targets.planted.subsection_version import SUBSECTION_VERSION
from loadfuzz_targets.planted.virtio_config import VIRTIO_CONFIG
from loadfuzz_targets.planted.virtio_queue_count import VIRTIO_QUEUE_COUNT
from loadfuzz_targets.planted.virtio_queue_sel import VIRTIO_QUEUE_SEL
from loadfuzz_targets.planted.vmdesc_skip import VMDESC_SKIP
from loadfuzz_targets.planted.xbzrle_overrun import XBZRLE_OVERRUN

BUGS: Final[tuple[PlantedBug, ...]] = (
    CPU_VECTOR,
    VIRTIO_QUEUE_SEL,
    VIRTIO_QUEUE_COUNT,
    KINDS_NEGATIVE_COUNT,
    INTC_LATE_COUNT,
    VIRTIO_CONFIG,
    NIC_MAC_UNIT,
    DISK_SECTOR_OVERFLOW,
    NIC_MAC_SIGNED,
    RTC_INDEX,
    DISK_TRANSFER,
    SDCARD_MODE,
    PS2_RING_WALK,
    SERIAL_BRGR,
    DISK_SENTINEL,
    INTC_MASKS,
    INTC_PRIORITY,
    HPET_EARLY_IRQ,
    NIC_VFS,
    SDCARD_POSITIVE,
    CPU_EXCEPTION_ERROR,
    DISK_BOUNCE,
    RAM_COMMIT,
    DISK_APPEND,
    FOOTER_ID,
    FOOTER_OWN_ID,
    SUBSECTION_LOOKALIKE,
    SECTION_TWICE,
    SUBSECTION_VERSION,
    PEEK_ONCE,
    CPU_REGISTERS,
    SDCARD_OLD_VERSION,
    RUNSTATE_ENDLESS,
    FPU_FORMAT,
    KINDS_LABEL,
    VMDESC_SKIP,
    RAM_LIST_LOOP,
    RAM_RUN_BOUND,
    RAM_STALE_BLOCK,
    RAM_NO_BLOCK,
    XBZRLE_OVERRUN,
    DISK_DUPLICATE_KEY,
    DISK_HOST_POINTER,
    RTC_CATCH_UP,
    EOF_BOUNDARY,
    SERIAL_NO_RATE,
)


def bug_named(name: str) -> PlantedBug:
    """The bug of that name.

    Raises:
        KeyError: there is none.
    """
    return {bug.name: bug for bug in BUGS}[name]
