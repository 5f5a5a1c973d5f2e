"""The state of a machine as one line: a digest by device, RAM, and the rest.

``timer=… cpu=… ram=… ~globalstate=… ~board=…``: an alarm can then name the
device it is about.  What a stream does not carry (``not_migrated``, the run
state) has a part of its own, marked as :mod:`loadfuzz.oracles.digests` wants it.

The same rule as :func:`savevm.state.digest`, several times faster: what is
state becomes plain lists and tuples, of which ``repr`` writes the text in C.
"""

from hashlib import blake2b
from typing import Final

from loadfuzz.oracles.digests import NOT_CARRIED
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


def digest_of_machine(machine: Machine) -> str:
    """All state that a load can touch; equal for equal state."""
    parts: list[str] = []
    local: list[str] = []
    for name, device in machine.devices.items():
        kept = _not_migrated(device)
        attributes = vars(device)
        parts.append(_part(name, {k: v for k, v in attributes.items() if k not in kept}))
        if kept:
            local.append(_part(NOT_CARRIED + name, {k: attributes[k] for k in kept}))
    if machine.ram is not None:
        parts.append(f"ram={machine.ram.digest()[: 2 * _BYTES]}")
    timers = machine.timers.timers
    local.append(_part(NOT_CARRIED + "board", [machine.board, machine.clock, *timers]))
    return " ".join((*parts, *local))


def _not_migrated(device: Device) -> frozenset[str]:
    return device.not_migrated if isinstance(device, SimDevice) else frozenset()


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
