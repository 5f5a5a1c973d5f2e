"""Handlers for sections that nothing is known about."""

from savevm.qemufile import QEMUFileWriter
from savevm.registry import SaveStateEntry, SaveVMHandlers
from savevm.state import State


class Unknown(State):
    """The state of a device whose layout is not known."""


def unknown_entry(idstr: str, instance_id: int) -> SaveStateEntry:
    """An entry that may come in any kind of section and is never saved."""
    ops = SaveVMHandlers(save_live_setup=_nothing_to_save)
    return SaveStateEntry(idstr, instance_id, 0, -1, Unknown(), ops=ops)


def _nothing_to_save(f: QEMUFileWriter, opaque: object) -> int:
    raise AssertionError((f, opaque))
