"""A machine out of a description."""

from savevm.constants import QEMU_VM_CONFIGURATION
from savevm.errors import LoadError
from savevm.foreign.device import put_on_board
from savevm.foreign.handlers import ForeignHandlers, described_entry, old_style_entry
from savevm.foreign.locate import ReadsSpans, locate_vmdesc
from savevm.foreign.shapes import shape_of
from savevm.foreign.text import VmdescText, parse_vmdesc
from savevm.machine import Machine
from savevm.profile import STRICT, Profile
from savevm.ram import RAMState


def machine_from_vmdesc(
    vmdesc: VmdescText,
    *,
    profile: Profile = STRICT,
    store: bool = True,
    configuration: bool = True,
) -> Machine:
    """A machine with every device that ``vmdesc`` describes, and RAM.

    What the devices carry is part of :meth:`Machine.digest` like any other's.  It
    adopts: machine type, section ids, RAM blocks and their order come from
    the stream that it loads.  Saved again it gives back that stream, bit for
    bit.

    Args:
        vmdesc: what a stream says of itself.
        profile: the manners of the machine's loader.
        store: keep RAM contents.
        configuration: the machine sends a configuration section.
    """
    machine = Machine("", profile=profile, target_page_bits=vmdesc.page_bits)
    machine.adopts = True
    machine.send_configuration = configuration
    handlers = machine.savevm = ForeignHandlers()
    RAMState(vmdesc.page_size, adopt=True, store=store).register(machine)
    for device in vmdesc.devices:
        number = device.instance_id
        if device.struct is None:
            state, entry = old_style_entry(device)
        else:
            shape = shape_of(device.struct)
            state = shape.new()
            entry = described_entry(device.name, number, shape.vmsd, state)
        handlers.add(entry)
        put_on_board(machine, device.name, number, state)
    return machine


def foreign_machine(data: bytes, *, profile: Profile = STRICT, store: bool = True) -> Machine:
    """The machine that a stream describes itself to be from; nothing is loaded yet.

    ::

        machine = foreign_machine(data)
        load_from_bytes(machine, data)
        save_to_bytes(machine) == data

    Raises:
        LoadError: the stream has no vmdesc, or one that describes nothing
            sensible.
    """
    found = locate_vmdesc(_Memory(data))
    if found is None:
        raise LoadError("the stream does not describe itself: it has no vmdesc", path=("vmdesc",))
    vmdesc = parse_vmdesc(found.text, len(data))
    if vmdesc is None:
        raise LoadError(
            "the description is none a machine can be built from",
            offset=found.start,
            path=("vmdesc",),
        )
    configuration = data[8:9] == bytes((QEMU_VM_CONFIGURATION,))
    return machine_from_vmdesc(vmdesc, profile=profile, store=store, configuration=configuration)


class _Memory(ReadsSpans):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        return self._data[start:end]
