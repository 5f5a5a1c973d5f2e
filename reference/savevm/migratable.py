"""What of a machine a stream carries: by this two machines are compared after a migration."""

from savevm.devices.base import SimDevice, migratable
from savevm.machine import Machine
from savevm.state import digest


def migratable_roots(machine: Machine) -> list[object]:
    """The state that a stream carries or implies: clock, devices, RAM's digest.

    The run state and counters of the board, and what a device keeps for
    itself (:attr:`SimDevice.not_migrated`), are left out.
    """
    roots: list[object] = [machine.clock]
    for device in machine.devices.values():
        roots.append(migratable(device) if isinstance(device, SimDevice) else device)
    if machine.ram is not None:
        roots.append(machine.ram.digest())
    return roots


def migratable_digest(machine: Machine) -> str:
    """Hex digest of :func:`migratable_roots`: equal after a save and a load."""
    return digest(*migratable_roots(machine))
