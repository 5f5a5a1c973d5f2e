"""The state of a machine as one line: a digest by device, RAM, and the rest.

``timer=… cpu=… ram=… ~globalstate=… ~board=…``: an alarm can then name the
device it is about.  What a stream does not carry (``not_migrated``, the run
state) has a part of its own, marked as :mod:`loadfuzz.oracles.digests` wants it.

The same rule as :func:`savevm.state.digest`, several times faster: what is
state becomes plain lists and tuples, of which ``repr`` writes the text in C,
and most loads leave most devices alone, whose digests stay as they were.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from loadfuzz.oracles.digests import NOT_CARRIED
from loadfuzz_targets.baseline import Baseline
from savevm.devices.base import SimDevice
from savevm.machine import Device, Machine
from savevm.state import State

_BYTES: Final = 8
"""Of each part: 64 bits are ample to tell the states of one campaign apart."""
DEPTH_MAX: Final = 32
"""Nesting of states.  Devices nest four deep; more is a state inside itself."""
_ATOMS: Final = frozenset({int, bool, float, str, bytes, type(None)})
_OUTSIDE: Final = ("outside",)
"""Stands for what is no state: a machine, a callback."""


@dataclass(frozen=True, slots=True)
class _DeviceDigest:
    """What one device comes to.

    Attributes:
        carried: the part of what a stream carries.
        local: the part of what it does not, ``""`` when there is none.
    """

    carried: str
    local: str


class MachineDigest:
    """Digests one machine again and again.

    Args:
        machine: as it is now is what its devices are compared with.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kept = {
            name: (device, Baseline(device), _digest_of_device(name, device))
            for name, device in machine.devices.items()
            if isinstance(device, State)
        }

    def now(self) -> str:
        """All state that a load can touch; equal for equal state."""
        machine = self._machine
        carried: list[str] = []
        local: list[str] = []
        for name, device in machine.devices.items():
            known = self._kept.get(name)
            if known is not None and known[0] is device and not known[1].changed():
                digest = known[2]
            else:
                digest = _digest_of_device(name, device)
            carried.append(digest.carried)
            if digest.local:
                local.append(digest.local)
        if machine.ram is not None:
            carried.append(f"ram={machine.ram.digest()[: 2 * _BYTES]}")
        timers = machine.timers.timers
        local.append(_part(NOT_CARRIED + "board", [machine.board, machine.clock, *timers]))
        return " ".join((*carried, *local))


def digest_of_machine(machine: Machine) -> str:
    """The digest of a machine that is asked once."""
    return MachineDigest(machine).now()


def _digest_of_device(name: str, device: Device) -> _DeviceDigest:
    kept = device.not_migrated if isinstance(device, SimDevice) else frozenset()
    attributes = vars(device)
    carried = _part(name, {k: v for k, v in attributes.items() if k not in kept})
    if not kept:
        return _DeviceDigest(carried, "")
    return _DeviceDigest(carried, _part(NOT_CARRIED + name, {k: attributes[k] for k in kept}))


def _part(name: str, state: object) -> str:
    text = repr(plain(state)).encode()
    return f"{name}={blake2b(text, digest_size=_BYTES).hexdigest()}"


def plain(item: object, depth: int = DEPTH_MAX) -> object:
    """A state as lists, tuples and atoms: equal for equal state, whatever the
    order in which attributes and keys were set.

    Raises:
        ValueError: the state contains itself.
    """
    if type(item) in _ATOMS:
        return item
    if not depth:
        raise ValueError("the state contains itself")
    if isinstance(item, list):
        return [value if type(value) in _ATOMS else plain(value, depth - 1) for value in item]
    if isinstance(item, bytearray):
        return bytes(item)
    if isinstance(item, State):
        # Names are unique, so sorting never comes to compare two values.
        return _plain_pairs(sorted(item.__dict__.items()), depth)
    if isinstance(item, dict):
        return _plain_pairs(sorted(((str(key), value) for key, value in item.items())), depth)
    if isinstance(item, str):
        return str(item)  # an enum's value
    if isinstance(item, int):
        return int(item)
    return _OUTSIDE


def _plain_pairs(pairs: list[tuple[str, object]], depth: int) -> list[tuple[str, object]]:
    return [
        (name, value if type(value) in _ATOMS else plain(value, depth - 1)) for name, value in pairs
    ]
