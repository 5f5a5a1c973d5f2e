"""What a machine takes, found out with what it saved of itself, before anything else is loaded.

What went wrong even with that stream would go wrong with every input, and each would look like
a finding.  Loading it has to go well, or the machine is of no use; a closer look that does not
go well is left out from then on, as much of it as it takes.

For example a device of one's own may expect that the guest runs between two loads, which it does
after an incoming migration, and does not here.
"""

from enum import Enum
from typing import Final, Protocol

from loadfuzz.errors import UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.qemu.machine import MachineSpec

LOADS: Final = (1, 2, 3)
"""Loads before each closer look: the first, and some in a row, as most loads are.  More than one
look, since a failure may need luck to show."""


class Look(Enum):
    """How closely an accepted load is looked at, as a remark on it says."""

    FULL = "the guest runs, and is saved and loaded again"
    STILL = "without running the guest"
    NONE = "by trace events alone"


class Rehearsing(Protocol):
    """What is needed of an executor."""

    async def renew(self) -> None:
        """As :meth:`loadfuzz.abc.Executor.renew`."""

    async def sane(self, *, closely: bool = False) -> Execution:
        """Load what the machine saved of itself when it had just been started."""


async def rehearse(executor: Rehearsing, spec: MachineSpec, look: Look) -> str:
    """Load what a machine saved of itself, and look at it as closely as ``look`` says.

    Args:
        executor: renewed first.
        spec: of its machine, for the error.
        look: how closely it looks.

    Returns:
        What came of looking closely, "" if all went well.

    Raises:
        UsageError: the machine does not load what it saved.
        InfraError: as :class:`loadfuzz.abc.Executor` has it.
    """
    await executor.renew()
    looked = False
    for count in LOADS:
        for _ in range(count):
            found = await executor.sane()
            if found.kind is not ExitKind.ACCEPTED:
                if looked:
                    return _told(found)
                raise UsageError(
                    f"{spec.binary!r} does not load what its machine {spec.machine!r} saved of "
                    f"itself: {_told(found)}; use another machine or other devices"
                )
        found = await executor.sane(closely=True)
        if found.kind is not ExitKind.ACCEPTED:
            return _told(found)
        looked = look is not Look.NONE
    return ""


def remark(spec: MachineSpec, why: str, look: Look) -> str:
    """What to tell people when no more than ``look`` goes well."""
    return (
        f"{spec.binary!r} fails over what its own machine {spec.machine!r} saved, when looked at "
        f"closely ({why}): inputs are looked at {look.value}"
    )


def _told(found: Execution) -> str:
    if found.refusal is not None:
        return found.refusal.text
    if found.escape is not None:
        message = f" {found.escape.message}" if found.escape.message else ""
        return f"{found.escape.type_name}{message}"
    return found.kind.value
