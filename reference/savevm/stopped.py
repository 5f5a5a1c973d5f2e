"""Stopping a machine for a while, and letting it run again if it ran.

Source: ``do_vm_stop`` of QEMU ``cpus.c`` and the frame that ``hmp_savevm`` and
``qmp_xen_save_devices_state`` share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from savevm.machine import Machine, RunState


@dataclass(frozen=True, slots=True)
class Unrest:
    """A disk that could not be brought to rest.

    Attributes:
        device: its name.
        doing: what failed, ``draining`` or ``flushing``.
        error: how.
    """

    device: str
    doing: str
    error: OSError

    def __str__(self) -> str:
        return f"Error while {self.doing} device '{self.device}': {reason_of(self.error)}"


def reason_of(error: OSError) -> str:
    """An error's text, without its number."""
    return error.strerror or str(error)


def stop(machine: Machine, state: RunState) -> tuple[Unrest, ...]:
    """Stop the guest and bring its disks to rest (``vm_stop``).

    A machine that does not run keeps its run state, as in QEMU: one that was
    paused stays paused through a savevm.

    Returns:
        The disks that could not be drained or flushed.  In QEMU nobody looks at
        what ``vm_stop`` returns.
    """
    if machine.is_running():
        machine.vm_stop(state)
    return bring_to_rest(machine)


def bring_to_rest(machine: Machine) -> tuple[Unrest, ...]:
    """Complete what is under way on all disks, then make it stable
    (``bdrv_drain_all``, ``bdrv_flush_all``); one that fails does not hinder the
    others.

    Returns:
        The disks that could not.
    """
    failures = list(drain_all(machine))
    for device in machine.block_devices:
        try:
            device.flush()
        except OSError as error:
            failures.append(Unrest(device.name, "flushing", error))
    return tuple(failures)


def drain_all(machine: Machine) -> tuple[Unrest, ...]:
    """Complete what is under way on all disks (``bdrv_drain_all``).

    Returns:
        The disks that could not; what was under way there still is.
    """
    failures: list[Unrest] = []
    for device in machine.block_devices:
        try:
            device.drain()
        except OSError as error:
            failures.append(Unrest(device.name, "draining", error))
    return tuple(failures)


@contextmanager
def stopped(machine: Machine, state: RunState) -> Iterator[tuple[Unrest, ...]]:
    """Stop the machine around a block, however the block ends.

    Yields:
        What :func:`stop` returns.
    """
    was_running = machine.is_running()
    try:
        yield stop(machine, state)
    finally:
        if was_running:
            machine.vm_start()
