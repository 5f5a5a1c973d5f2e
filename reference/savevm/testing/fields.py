"""Single fields on the wire: save and load them without a device round them."""

from savevm.errors import LoadError
from savevm.profile import STRICT, Profile
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import (
    VMStateDescription,
    VMStateField,
    vmstate_load_state,
    vmstate_save_state,
)
from savevm.vmstate.description import Vmdesc


def save_fields(state: State, *items: VMStateField, version_id: int = 1) -> str:
    """Hex of the fields, saved in runs and once more one by one.

    Raises:
        AssertionError: the two ways of saving differ.
        SaveError: the state cannot be saved.
    """
    vmsd = VMStateDescription("d", version_id, fields=items)
    written: list[str] = []
    ways: tuple[Vmdesc | None, Vmdesc | None] = (None, {})
    for vmdesc in ways:
        sink = BytesSink()
        f = QEMUFileWriter(sink)
        vmstate_save_state(f, vmsd, state, vmdesc)
        f.flush()
        written.append(sink.data.hex())
    assert written[0] == written[1]
    return written[0]


def load_fields(
    state: State,
    wire: str,
    *items: VMStateField,
    profile: Profile = STRICT,
    traced: bool = False,
    version_id: int = 1,
) -> QEMUFileReader:
    """Load fields from hex; the reader tells how far it came.

    Args:
        traced: field by field instead of in runs.

    Raises:
        LoadError: they are refused.
    """
    f = QEMUFileReader(bytes.fromhex(wire), profile=profile, trace=TraceLog() if traced else None)
    vmstate_load_state(f, VMStateDescription("d", version_id, fields=items), state, version_id)
    return f


def refused_fields(
    state: State, wire: str, *items: VMStateField, profile: Profile = STRICT
) -> LoadError:
    """The error that loading fields ends in.

    Raises:
        AssertionError: it ends in none.
    """
    try:
        load_fields(state, wire, *items, profile=profile)
    except LoadError as error:
        return error
    raise AssertionError(f"{wire!r} was loaded")
