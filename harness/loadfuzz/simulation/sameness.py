"""Whether two machines of one kind are in the same state, as far as a stream carries it.

It says the same as comparing :func:`savevm.migratable.migratable_digest` of both, several
times faster: nothing is hashed, and most of a device is compared in C.
"""

from typing import Final

from savevm.devices.base import SimDevice
from savevm.machine import Device, Machine
from savevm.state import State

DEPTH_MAX: Final = 32
"""Nesting of states.  Devices nest four deep; more is a state inside itself."""
_ATOMS: Final = (int, float, str, bytes, type(None))


def same(left: Machine, right: Machine) -> bool:
    """Whether clock, devices and RAM are equal."""
    if left.clock.now_ns != right.clock.now_ns or left.devices.keys() != right.devices.keys():
        return False
    for name, device in left.devices.items():
        if not _same_device(device, right.devices[name]):
            return False
    if left.ram is None or right.ram is None:
        return left.ram is right.ram
    blocks, others = left.ram.blocks, right.ram.blocks
    return len(blocks) == len(others) and all(
        block.idstr == other.idstr
        and block.used_length == other.used_length
        and block.read(0, block.used_length) == other.read(0, other.used_length)
        for block, other in zip(blocks, others, strict=True)
    )


def _same_device(device: Device, other: Device) -> bool:
    kept = device.not_migrated if isinstance(device, SimDevice) else frozenset[str]()
    mine, its = vars(device), vars(other)
    return mine.keys() - kept == its.keys() - kept and all(
        _same(value, its[name], DEPTH_MAX) for name, value in mine.items() if name not in kept
    )


def _same(left: object, right: object, depth: int) -> bool:
    if not depth:
        raise ValueError("a state contains itself")
    if isinstance(left, State):
        if not isinstance(right, State):
            return False
        return _same_items(left.__dict__, right.__dict__, depth)
    if isinstance(left, dict):
        return isinstance(right, dict) and _same_items(left, right, depth)
    if isinstance(left, list):
        # Lists of numbers are compared in C; one that holds states is unequal at first sight.
        return isinstance(right, list) and (
            left == right
            or (
                len(left) == len(right)
                and all(_same(a, b, depth - 1) for a, b in zip(left, right, strict=True))
            )
        )
    if isinstance(left, (bytearray, *_ATOMS)):
        return type(left) is type(right) and left == right
    # What is no state, such as the machine or a callback, each has of its own.
    return not isinstance(right, (State, dict, list, bytearray, *_ATOMS))


def _same_items(left: dict[str, object], right: dict[str, object], depth: int) -> bool:
    return left.keys() == right.keys() and all(
        _same(value, right[name], depth - 1) for name, value in left.items()
    )
