"""The registry of a machine built from a stream: duplicates, and plain bytes.

A machine of its own never has two handlers of one name and instance; a stream
may (``isapc`` has two sections ``isa-ide`` 0, since the devices register
without a path).  They are told apart by their order.
"""

from savevm.foreign.text import DeviceText
from savevm.profile import Profile
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.registry import SaveState, SaveStateEntry, SaveVMHandlers
from savevm.state import State
from savevm.vmstate.description import VMStateDescription

_ANY_VERSION = 0x7FFF_FFFF


class ForeignHandlers(SaveState):
    """Handlers that may share name and instance; each is found once per load."""

    def __init__(self) -> None:
        super().__init__()
        self._turns: dict[tuple[str, int], int] = {}

    def add(self, entry: SaveStateEntry) -> SaveStateEntry:
        """Append an entry as it is; only its section id is ours to give."""
        return self._append(entry)

    def begin_load(self) -> None:
        self._turns.clear()

    def find_se(self, idstr: str, instance_id: int, profile: Profile) -> SaveStateEntry | None:
        first = super().find_se(idstr, instance_id, profile)
        if first is None:
            return None
        key = (first.idstr, first.instance_id)
        alike = [se for se in self.handlers if (se.idstr, se.instance_id) == key]
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        # One more section than there are devices is a device that comes twice.
        return alike[min(turn, len(alike) - 1)]


def described_entry(
    idstr: str, instance_id: int, vmsd: VMStateDescription, opaque: State
) -> SaveStateEntry:
    """An entry whose name is the one on the wire."""
    return SaveStateEntry(idstr, instance_id, vmsd.version_id, -1, opaque, vmsd=vmsd)


def old_style_entry(device: DeviceText) -> tuple[State, SaveStateEntry]:
    """A state of which only the number of bytes is known, and its entry, whose
    version is taken over from the stream."""
    opaque = State(data=bytes(device.size), size=device.size)
    ops = SaveVMHandlers(save_state=_save, load_state=_load)
    number = device.instance_id
    return opaque, SaveStateEntry(device.name, number, _ANY_VERSION, -1, opaque, ops=ops)


def _save(f: QEMUFileWriter, opaque: State) -> None:
    data = opaque.__dict__["data"]
    assert isinstance(data, bytes)
    f.put_buffer(data)


def _load(f: QEMUFileReader, opaque: State, version_id: int) -> int:
    del version_id
    size = opaque.__dict__["size"]
    assert isinstance(size, int)
    opaque.__dict__["data"] = f.get_buffer(size, Role.DATA)
    return 0
