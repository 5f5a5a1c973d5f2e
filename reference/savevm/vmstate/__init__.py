"""The VMState engine: descriptions of device state and what derives from them."""

from savevm.vmstate.description import (
    Opaque,
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)
from savevm.vmstate.loading import vmstate_load_state
from savevm.vmstate.saving import vmstate_save_state

__all__ = [
    "Opaque",
    "VMSFlags",
    "VMStateDescription",
    "VMStateField",
    "VMStateInfo",
    "vmstate_load_state",
    "vmstate_save_state",
]
