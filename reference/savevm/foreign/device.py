"""A device of which nothing is known but its state."""

from savevm.machine import Machine
from savevm.state import State


class ForeignDevice(State):
    """What a board has of a device that a stream describes
    (:class:`savevm.machine.Device`): it is there, and does nothing.

    Args:
        state: as its section carries it.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state=state)

    def dev_path(self) -> str | None:
        """Its path is part of its section's name already."""
        return None

    def reset(self) -> None:
        """Nobody knows what power-on would make of it."""

    def check_invariants(self) -> list[str]:
        """Nobody knows what is impossible."""
        return []

    def step(self) -> None:
        """Nobody knows what it does."""


def put_on_board(machine: Machine, idstr: str, instance_id: int, state: State) -> None:
    """Make a device's state part of the machine's; one device more of the same name
    and instance is told apart by its place."""
    name = f"{idstr}#{instance_id}"
    if name in machine.devices:
        name = f"{name}+{len(machine.devices)}"
    machine.devices[name] = ForeignDevice(state)
