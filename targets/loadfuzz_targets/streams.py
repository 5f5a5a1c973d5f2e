"""Streams that the reference machine makes: one per device set and feature.

All are small, deterministic, and accepted by the full machine: a device-set
stream leaves the other devices as they are.  The corpus is written from these.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from loadfuzz.inputs import Seed
from savevm.board import DEVICE_SETS, FULL, RAM, machine_with
from savevm.commands import Command
from savevm.constants import QEMU_VM_COMMAND
from savevm.devices.disk import Disk
from savevm.devices.sdcard import RESPONSE, SdCard
from savevm.document import Document
from savevm.machine import Machine
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.registry import MigrationParams
from savevm.save import (
    qemu_save_device_state,
    qemu_savevm_state_begin,
    qemu_savevm_state_complete,
    qemu_savevm_state_header,
    qemu_savevm_state_iterate,
    save_to_bytes,
)
from savevm.vmstate.description import Opaque, VMStateDescription

ORIGIN: Final = "reference"
STEPS: Final = 50
"""Guest steps of the "ran" seeds: the program has been round once, every
device has been used."""
LONG_STEPS: Final = 400
"""Guest steps of the seeds that are after rare state, such as subsections."""
BUSY_STEPS: Final = 3900
"""Guest steps until the disk has remapped two sectors."""
PAGES_PER_PART: Final = 3
PASS_STEPS: Final = 30
PASSES: Final = 4
"""Times that a seed in parts sends all dirty pages before its END section: a
page goes out as a difference when it is sent for the third time."""
PARTS_MAX: Final = 64
"""PART sections of one pass: 64 KiB of RAM fit into a few."""
UUID: Final = bytes(range(16))


def reference_seeds() -> Iterator[Seed]:
    """Every seed, in a fixed order, each with a name of its own."""
    for name, devices in DEVICE_SETS.items():
        yield _seed(f"{name}-fresh", save_to_bytes(_machine(devices)))
        yield _seed(f"{name}-ran", _plain(_machine(devices, STEPS)))
    for number, stream in enumerate(_optional_parts()):
        yield _seed(f"optional-parts-{number}", stream)
    for feature, make in _FEATURES.items():
        yield _seed(feature, make())


def _seed(name: str, stream: bytes) -> Seed:
    return Seed(name, stream, ORIGIN)


def _machine(devices: tuple[str, ...], steps: int = 0) -> Machine:
    machine = machine_with(*devices)
    machine.step(steps)
    return machine


def _plain(machine: Machine) -> bytes:
    # Most seeds go without vmdesc: it is as long as the state, and a loader
    # only skips it.
    machine.suppress_vmdesc = True
    return save_to_bytes(machine)


# -- features ------------------------------------------------------------------------------


def _optional_parts() -> Iterator[bytes]:
    """Few streams that have, between them, every subsection that the guest
    brings about.  Without RAM, which by then would be most of a stream."""
    devices = tuple("icount" if name == "timer" else name for name in FULL if name != RAM)
    machine = _machine(devices)
    seen: dict[int, frozenset[str]] = {}
    for step in range(1, LONG_STEPS + 1):
        machine.step()
        seen[step] = frozenset(
            name
            for entry in machine.savevm.handlers
            if entry.vmsd is not None
            for name in _needed(entry.vmsd, entry.opaque)
        )
    missing = frozenset().union(*seen.values())
    while missing:
        best = max(seen, key=lambda step: (len(seen[step] & missing), -step))
        missing -= seen[best]
        yield _plain(_machine(devices, best))


def _needed(vmsd: VMStateDescription, opaque: Opaque) -> Iterator[str]:
    for sub in vmsd.subsections:
        if sub.needed is None or sub.needed(opaque):
            yield sub.name
            yield from _needed(sub, opaque)


def _without_configuration() -> bytes:
    machine = _machine(DEVICE_SETS["small"], STEPS)
    machine.send_configuration = False
    return _plain(machine)


def _with_uuid() -> bytes:
    machine = _machine(DEVICE_SETS["cpu"], STEPS)
    machine.uuid = UUID
    return _plain(machine)


def _oldest_versions() -> bytes:
    """Every device as its oldest description that can still be read has it."""
    machine = _machine(FULL, STEPS)
    for entry in machine.savevm.handlers:
        if entry.vmsd is not None:
            oldest = max(entry.vmsd.minimum_version_id, 1)
            entry.vmsd = replace(entry.vmsd, version_id=oldest)
            entry.version_id = oldest
    return _plain(machine)


def _device_state_only() -> bytes:
    """What Xen saves: no RAM, no configuration."""
    machine = _machine(FULL, STEPS)
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    qemu_save_device_state(f, machine)
    f.close()
    return bytes(sink.data)


def _in_parts(*, xbzrle: bool = False) -> bytes:
    """A live migration: the guest runs on between PART sections."""
    machine = _machine(DEVICE_SETS["ram"])
    machine.suppress_vmdesc = True
    assert machine.ram is not None
    machine.ram.xbzrle = xbzrle
    machine.ram.pages_per_iterate = PAGES_PER_PART
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    qemu_savevm_state_header(f, machine)
    qemu_savevm_state_begin(f, machine, MigrationParams())
    for _ in range(PASSES):
        for _ in range(PARTS_MAX):
            if qemu_savevm_state_iterate(f, machine) > 0:
                break
        machine.step(PASS_STEPS)
    qemu_savevm_state_complete(f, machine)
    f.close()
    return bytes(sink.data)


def _commands() -> bytes:
    """What a source says to prepare postcopy, before the first section."""
    stream = _plain(_machine(DEVICE_SETS["small"], STEPS))
    document = Document.parse(stream, lambda: machine_with(*DEVICE_SETS["small"]))
    said = (
        (Command.OPEN_RETURN_PATH, b""),
        (Command.PING, (1).to_bytes(4, "big")),
        (Command.POSTCOPY_ADVISE, (0x1000).to_bytes(8, "big") * 2),
    )
    data = b"".join(_command(command, payload) for command, payload in said)
    return document.inserted(document.sections[0].start, data)


def _package() -> bytes:
    """Devices inside a package, as postcopy sends them."""
    machine = _machine(DEVICE_SETS["small"], STEPS)
    stream = _plain(machine)
    document = Document.parse(stream, lambda: machine_with(*DEVICE_SETS["small"]))
    devices = [section for section in document.sections if section.type_label == "FULL"]
    start, end = devices[0].start, devices[-1].end
    body = stream[start:end]
    head = _command(Command.PACKAGED, len(body).to_bytes(4, "big"))
    return stream[:start] + head + stream[start:]


def _disk_busy() -> bytes:
    """A disk with requests in its queue and remapped sectors.  Without RAM: the guest
    has been at it for a while, and RAM would be most of the stream."""
    machine = _machine(tuple(name for name in DEVICE_SETS["disk"] if name != RAM), BUSY_STEPS)
    disk = machine.devices["disk"]
    assert isinstance(disk, Disk)
    for sector, value in ((100, 0x21), (200, 0x12)):
        disk.submit(sector, value)
    return _plain(machine)


def _card_answers() -> bytes:
    """A card that is being read: the mode whose indices have bounds of their own."""
    machine = _machine(DEVICE_SETS["storage"])
    card = machine.devices["sdcard"]
    assert isinstance(card, SdCard)
    for _ in range(LONG_STEPS):
        machine.step()
        if card.mode == RESPONSE:
            break
    return _plain(machine)


def _command(command: Command, payload: bytes) -> bytes:
    return b"".join(
        (
            QEMU_VM_COMMAND.to_bytes(1, "big"),
            int(command).to_bytes(2, "big"),
            len(payload).to_bytes(2, "big"),
            payload,
        )
    )


_FEATURES: Final[dict[str, Callable[[], bytes]]] = {
    "small-without-configuration": _without_configuration,
    "cpu-uuid": _with_uuid,
    "full-oldest-versions": _oldest_versions,
    "full-device-state-only": _device_state_only,
    "ram-in-parts": _in_parts,
    "ram-xbzrle": lambda: _in_parts(xbzrle=True),
    "disk-busy": _disk_busy,
    "card-answers": _card_answers,
    "small-commands": _commands,
    "small-package": _package,
}
