"""RAM: blocks, the live handler that saves and loads them, and its page format.

:class:`RAMState` is all a machine needs; the rest is for those who look inside
a stream or add memory regions.
"""

from savevm.ram.blocks import (
    RAM_BLOCKS_MAX,
    MemoryRegion,
    RAMBlock,
    RAMList,
    vmstate_register_ram,
    vmstate_register_ram_global,
    vmstate_unregister_ram,
)
from savevm.ram.items import PAGE_KINDS, RAMFlag, RAMItem, RAMListEntry, kind_name
from savevm.ram.load import ram_load
from savevm.ram.schedule import SaveSchedule, ScheduledRun
from savevm.ram.state import ADOPT_PAGES_MAX, RAMState

__all__ = [
    "ADOPT_PAGES_MAX",
    "PAGE_KINDS",
    "RAM_BLOCKS_MAX",
    "MemoryRegion",
    "RAMBlock",
    "RAMFlag",
    "RAMItem",
    "RAMList",
    "RAMListEntry",
    "RAMState",
    "SaveSchedule",
    "ScheduledRun",
    "kind_name",
    "ram_load",
    "vmstate_register_ram",
    "vmstate_register_ram_global",
    "vmstate_unregister_ram",
]
