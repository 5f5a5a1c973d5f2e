"""The VMState engine: descriptions of device state and what derives from them."""

from savevm.vmstate.description import (
    Opaque,
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)
from savevm.vmstate.engine import vmstate_load_state, vmstate_save_state

__all__ = [
    "Opaque",
    "VMSFlags",
    "VMStateDescription",
    "VMStateField",
    "VMStateInfo",
    "vmstate_load_state",
    "vmstate_save_state",
]
