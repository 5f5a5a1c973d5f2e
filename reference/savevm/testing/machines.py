"""Devices that are nothing but their state, and how to put them on a machine."""

from savevm.machine import Machine
from savevm.registry import ANY_INSTANCE, SaveStateEntry, SaveVMHandlers
from savevm.state import State
from savevm.vmstate.description import VMStateDescription


class PlainDevice(State):
    """A device without behaviour; its attributes are its state.

    Args:
        path: its path on a bus, or ``None``.
        attributes: the state.
    """

    def __init__(self, path: str | None = None, /, **attributes: object) -> None:
        super().__init__(**attributes)
        self.path = path

    def dev_path(self) -> str | None:
        """The path it was made with."""
        return self.path

    def reset(self) -> None:
        """Nothing: power-on leaves such a device as it is."""

    def check_invariants(self) -> list[str]:
        """Nothing is impossible."""
        return []

    def step(self) -> None:
        """Nothing to do."""


def plug(
    machine: Machine,
    vmsd: VMStateDescription,
    device: PlainDevice,
    *,
    instance_id: int = ANY_INSTANCE,
) -> SaveStateEntry:
    """Register a described device and make it part of the machine's digest."""
    dev = device if device.path is not None else None
    entry = machine.savevm.vmstate_register(dev, instance_id, vmsd, device)
    machine.devices[f"{entry.idstr}#{entry.instance_id}"] = device
    return entry


def plug_handlers(
    machine: Machine,
    idstr: str,
    ops: SaveVMHandlers,
    device: PlainDevice,
    *,
    instance_id: int = ANY_INSTANCE,
    version_id: int = 1,
) -> SaveStateEntry:
    """Register live or old-style handlers likewise."""
    dev = device if device.path is not None else None
    entry = machine.savevm.register_savevm_live(dev, idstr, instance_id, version_id, ops, device)
    machine.devices[f"{entry.idstr}#{entry.instance_id}"] = device
    return entry
