"""Helpers for whoever tests against the simulated machine: this project's tests,
and those of a loader that is compared with it.
"""

from savevm.errors import SaveError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.migratable import migratable_roots
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.registry import SaveStateEntry
from savevm.save import save_to_bytes
from savevm.state import differences, walk
from savevm.vmstate import vmstate_load_state, vmstate_save_state


def migratable_differences(left: Machine, right: Machine, limit: int = 8) -> list[str]:
    """Name up to ``limit`` leaves in which two machines of one kind differ."""
    names = ("clock", *left.devices, "ram")
    found: list[str] = []
    pairs = zip(names, migratable_roots(left), migratable_roots(right), strict=False)
    for name, one, other in pairs:
        before, after = dict(walk(one, name)), dict(walk(other, name))
        found += differences(dict[str, object](before), dict[str, object](after), limit)
    return found[:limit]


def copy_by_stream(source: Machine, destination: Machine) -> Machine:
    """Save ``source``, load that into ``destination``, and return it.

    Raises:
        SaveError: the source does not save.
        LoadError: the destination refuses.
    """
    load_from_bytes(destination, save_to_bytes(source))
    return destination


def entry_of(machine: Machine, device: str) -> SaveStateEntry:
    """The registry's entry of a device.

    Raises:
        KeyError: there is no such device, or it registered nothing.
    """
    opaque = machine.devices[device]
    for entry in machine.savevm.handlers:
        if entry.opaque is opaque:
            return entry
    raise KeyError(device)


def save_device(machine: Machine, device: str) -> bytes:
    """The bytes of one device alone: a section without header and footer.

    Raises:
        KeyError: there is no such device.
        SaveError: it does not save.
    """
    entry = entry_of(machine, device)
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    if entry.vmsd is not None:
        vmstate_save_state(f, entry.vmsd, entry.opaque, None)
    elif entry.ops is not None and entry.ops.save_state is not None:
        entry.ops.save_state(f, entry.opaque)
    else:
        raise SaveError(f"{device} is not saved in one section")
    f.close()
    return bytes(sink.data)


def load_device(machine: Machine, device: str, data: bytes, version_id: int | None = None) -> int:
    """Load one device from the bytes of its section.

    Nothing is rolled back when it fails: this is the section's load, not the
    machine's.

    Args:
        version_id: version the bytes were saved in; the newest if ``None``.

    Returns:
        How many bytes were read.

    Raises:
        KeyError: there is no such device.
        LoadError: it refuses.
    """
    entry = entry_of(machine, device)
    f = QEMUFileReader(data, profile=machine.profile)
    version = entry.version_id if version_id is None else version_id
    if entry.vmsd is not None:
        vmstate_load_state(f, entry.vmsd, entry.opaque, version)
    elif entry.ops is not None and entry.ops.load_state is not None:
        entry.ops.load_state(f, entry.opaque, version)
    return f.tell()
