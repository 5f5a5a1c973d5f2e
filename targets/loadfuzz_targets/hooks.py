"""Hooks of devices by name: which there are, and which faults go with each.

A place is ``call:DEVICE/HOOK#N``.  DEVICE is the idstr of a section, the name of the device
on the board, or the name of a description (a struct's or a subsection's inside one, too).
The n-th call is counted over all that go by that name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from loadfuzz.errors import UsageError
from loadfuzz.faults.kinds import FaultKind, Layer
from loadfuzz.faults.plan import FaultPlan
from savevm.machine import Machine
from savevm.registry import SaveStateEntry
from savevm.vmstate.description import VMStateDescription

_ANY: Final = (FaultKind.HOOK_RAISES, FaultKind.NO_MEMORY)
_ANSWERS: Final = (*_ANY, FaultKind.HOOK_REFUSES)

OF_DESCRIPTIONS: Final[Mapping[str, tuple[FaultKind, ...]]] = MappingProxyType(
    {
        "pre_load": _ANSWERS,
        "post_load": _ANSWERS,
        "load_state_old": _ANSWERS,
        "pre_save": _ANSWERS,
    }
)
"""Hooks of a described device, and the faults that go with each; others never strike."""
OF_HANDLERS: Final[Mapping[str, tuple[FaultKind, ...]]] = MappingProxyType(
    {
        "set_params": _ANY,
        "save_state": _ANY,
        "save_live_setup": _ANSWERS,
        "save_live_iterate": (*_ANSWERS, FaultKind.NEVER_CONVERGES),
        "save_live_complete": _ANSWERS,
        "save_live_pending": (*_ANY, FaultKind.NEVER_CONVERGES),
        "cancel": _ANY,
        "load_state": _ANSWERS,
    }
)
"""Those of a live or old-style handler."""
LOADING: Final = frozenset({"pre_load", "post_load", "load_state_old", "load_state"})
"""Hooks that a load calls."""
DEPTH_MAX: Final = 16
"""Descriptions inside one another; real ones nest four deep."""


@dataclass(frozen=True, slots=True)
class HookPlace:
    """A hook of a device.

    Attributes:
        device: one of the names that it goes by.
        hook: key of :data:`OF_DESCRIPTIONS` or :data:`OF_HANDLERS`.
    """

    device: str
    hook: str

    def __str__(self) -> str:
        return f"{self.device}/{self.hook}"


def place_of(name: str) -> HookPlace:
    """The hook that the name of a place means.

    Raises:
        UsageError: no device has such a hook.
    """
    device, _, hook = name.rpartition("/")
    if not device or (hook not in OF_DESCRIPTIONS and hook not in OF_HANDLERS):
        raise UsageError(
            f"{name!r} is no hook of a device; a place is DEVICE/HOOK#N, where HOOK is one of "
            f"{', '.join((*OF_DESCRIPTIONS, *OF_HANDLERS))}"
        )
    return HookPlace(device, hook)


def check_hooks(plan: FaultPlan) -> None:
    """Whether the device faults of a plan can be carried out.

    Raises:
        UsageError: one is at a hook that no device has.
    """
    for fault in plan.on(Layer.DEVICE):
        place_of(fault.place.name)


def names_of(entry: SaveStateEntry, machine: Machine) -> tuple[str, ...]:
    """What the device of an entry goes by, its idstr first."""
    on_board = [name for name, device in machine.devices.items() if device is entry.opaque]
    described = [entry.vmsd.name] if entry.vmsd is not None else []
    return tuple(dict.fromkeys((entry.idstr, *on_board, *described)))


def hooks_of(machine: Machine) -> list[HookPlace]:
    """Every hook that a machine's devices have, in the order of the registry; each by
    one of its names."""
    found: dict[HookPlace, None] = {}
    for entry in machine.savevm.handlers:
        if entry.vmsd is not None:
            # The outermost goes by the section's name, as on the wire.
            for name, vmsd in _descriptions(entry.vmsd, entry.idstr, DEPTH_MAX):
                found.update(
                    (HookPlace(name, hook), None)
                    for hook in OF_DESCRIPTIONS
                    if getattr(vmsd, hook) is not None
                )
        if entry.ops is not None:
            found.update(
                (HookPlace(entry.idstr, hook), None)
                for hook in OF_HANDLERS
                if getattr(entry.ops, hook) is not None
            )
    return list(found)


def _descriptions(
    vmsd: VMStateDescription, name: str, depth: int
) -> Iterator[tuple[str, VMStateDescription]]:
    yield name, vmsd
    if not depth:
        return
    for field in vmsd.fields:
        if field.vmsd is not None:
            yield from _descriptions(field.vmsd, field.vmsd.name, depth - 1)
    for sub in vmsd.subsections:
        yield from _descriptions(sub, sub.name, depth - 1)
