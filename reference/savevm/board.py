"""Machines: which devices there are, and how a board is put together.

Builders are cheap and deterministic: two builds of one kind are equal, section
ids included, so that a stream of one loads into another.
"""

from collections.abc import Callable, Mapping
from typing import Final

from savevm.devices.base import SimDevice
from savevm.devices.cpu import Cpu
from savevm.devices.disk import Disk
from savevm.devices.globalstate import GlobalState
from savevm.devices.hpet import Hpet
from savevm.devices.intc import Intc
from savevm.devices.kinds import Kinds
from savevm.devices.memdev import MemoryDevice
from savevm.devices.nic import Nic
from savevm.devices.passthrough import Passthrough
from savevm.devices.ps2 import PS2Keyboard
from savevm.devices.rtc import Rtc
from savevm.devices.sdcard import SdCard
from savevm.devices.serial import Serial
from savevm.devices.timer_board import TimerBoard
from savevm.devices.virtio import Virtio
from savevm.machine import Machine
from savevm.profile import STRICT, Profile
from savevm.ram import RAMState

RAM: Final = "ram"
"""Name of RAM in a list of devices: it has no :class:`SimDevice`."""
RAM_BYTES: Final = 64 << 10
RAM_BLOCK: Final = "pc.ram"

DeviceFactory = Callable[[], SimDevice]

DEVICES: Final[Mapping[str, DeviceFactory]] = {
    "timer": TimerBoard,
    "icount": lambda: TimerBoard(icount=True),
    "memdev": MemoryDevice,
    "cpu": Cpu,
    "intc": Intc,
    "rtc": Rtc,
    "hpet": Hpet,
    "ps2": PS2Keyboard,
    "serial": Serial,
    "nic": Nic,
    "disk": Disk,
    "sdcard": SdCard,
    "virtio": Virtio,
    "kinds": Kinds,
    "passthrough": Passthrough,
    "globalstate": GlobalState,
}
"""Every device by the name that builders take."""

FULL: Final = (
    "timer", RAM, "memdev", "cpu", "intc", "rtc", "hpet", "ps2", "serial", "nic", "disk",
    "sdcard", "virtio", "kinds", "globalstate",
)  # fmt: skip

DEVICE_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": ("timer", "globalstate"),
    "cpu": ("timer", "cpu", "intc", "globalstate"),
    "ram": ("timer", RAM, "cpu"),
    "timer": ("icount", "cpu", "hpet"),
    "nic": ("timer", "cpu", "nic"),
    "serial": ("timer", "cpu", "serial", "ps2"),
    "rtc": ("timer", "cpu", "rtc"),
    "disk": ("timer", RAM, "cpu", "disk"),
    "intc": ("timer", "cpu", "intc", "ps2"),
    "storage": ("timer", "cpu", "sdcard", "virtio"),
    "memdev": ("timer", RAM, "memdev", "cpu"),
    "kinds": ("timer", "cpu", "kinds"),
    "small": ("timer", RAM, "cpu", "nic"),
    "full": FULL,
}
"""Sets of devices that seeds are made from.  All but "none" have the CPU,
since it is the guest that makes the others work."""


def machine_with(
    *device_names: str,
    ram_bytes: int = RAM_BYTES,
    profile: Profile = STRICT,
    machine_type: str = "loadfuzz-reference",
    replace: Mapping[str, DeviceFactory] | None = None,
) -> Machine:
    """A machine with the devices named, realized in that order.

    Args:
        device_names: keys of :data:`DEVICES`, and "ram".
        ram_bytes: bytes of RAM in one block, whole pages; 0 for RAM without a
            block, as ``-M none`` has.
        profile: the manners of its loader.
        machine_type: as the configuration section names it.
        replace: makers of devices that take the place of the usual ones, such
            as subclasses with a check taken away.

    Raises:
        ValueError: there is no such device, or it is named twice.
    """
    if len(set(device_names)) != len(device_names):
        raise ValueError("a device is named twice")
    machine = Machine(machine_type, profile=profile)
    for name in device_names:
        if name == RAM:
            add_ram(machine, ram_bytes)
            continue
        factory = (replace or {}).get(name) or DEVICES.get(name)
        if factory is None:
            known = ", ".join((RAM, *DEVICES))
            raise ValueError(f"no device is called {name!r}; there are {known}")
        factory().realize(machine)
    return machine


def add_ram(machine: Machine, ram_bytes: int) -> RAMState:
    """Give ``machine`` RAM of one block, or of none for 0 bytes."""
    ram = RAMState(machine.page_size)
    if ram_bytes:
        ram.add_block(RAM_BLOCK, ram_bytes)
    ram.register(machine)
    return ram


def none_machine(profile: Profile = STRICT) -> Machine:
    """QEMU's ``-M none``: its stream loads into a QEMU 7.2, and back.

    Section ids count registrations there, and two of them send nothing: timer
    is 0, ram 2, globalstate 4.
    """
    machine = Machine("none", profile=profile)
    TimerBoard().realize(machine)
    machine.savevm.skip_section_ids(1)
    add_ram(machine, 0)
    machine.savevm.skip_section_ids(1)
    GlobalState().realize(machine)
    return machine


def small_machine(profile: Profile = STRICT, *, ram_bytes: int = RAM_BYTES) -> Machine:
    """CPU, RAM, timer and NIC."""
    return machine_with(*DEVICE_SETS["small"], ram_bytes=ram_bytes, profile=profile)


def full_machine(profile: Profile = STRICT, *, ram_bytes: int = RAM_BYTES) -> Machine:
    """Every device that can be migrated."""
    return machine_with(*FULL, ram_bytes=ram_bytes, profile=profile)


def machine_of(device_set: str, profile: Profile = STRICT) -> Machine:
    """The machine of one of the :data:`DEVICE_SETS`.

    Raises:
        KeyError: there is no such set.
    """
    if device_set == "none":
        return none_machine(profile)
    return machine_with(*DEVICE_SETS[device_set], profile=profile)
