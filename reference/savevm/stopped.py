"""Stopping a machine for a while, and letting it run again if it ran.

Source: ``do_vm_stop`` of QEMU ``cpus.c`` and the frame that ``hmp_savevm`` and
``qmp_xen_save_devices_state`` share.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from savevm.machine import Machine, RunState


def stop(machine: Machine, state: RunState) -> None:
    """Stop the guest and bring its disks to rest (``vm_stop``).

    A machine that does not run keeps its run state, as in QEMU: one that was
    paused stays paused through a savevm.  A disk that cannot be flushed does
    not hinder the stop; nobody looks at what ``vm_stop`` returns.
    """
    if machine.is_running():
        machine.vm_stop(state)
    for device in machine.block_devices:
        device.drain()
    for device in machine.block_devices:
        with suppress(OSError):
            device.flush()


@contextmanager
def stopped(machine: Machine, state: RunState) -> Iterator[None]:
    """Stop the machine around a block, however the block ends."""
    was_running = machine.is_running()
    stop(machine, state)
    try:
        yield
    finally:
        if was_running:
            machine.vm_start()
