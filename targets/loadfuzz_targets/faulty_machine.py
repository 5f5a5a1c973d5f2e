"""A machine whose devices' hooks fail by plan.

Theory of operation.  While :func:`faulty_hooks` is entered, the entries of the machine's
registry that a plan names have other descriptions and handlers: the same, with those
hooks replaced.  Nothing else of the machine is touched, and nothing in ``savevm`` knows.

What must follow, and why:

* ``hook-refuses``: the hook does its work and then returns a negative errno.  A save or
  load ends with that errno, and what the hook did is taken back.
* ``hook-raises``: the hook does its work and then raises something that is no LoadError.
  C's hooks cannot raise; what comes nearest is an ``abort()``.  It is the device's bug, so
  the loader must not make a LoadError of it, which would say that the stream is bad, and
  hide the bug: it leaves the loader as it is.  The loader's duty is that everything is
  put back before.
* ``no-memory``: the hook raises MemoryError before it does anything.  What QEMU does
  depends on the call: ``g_malloc`` aborts, ``g_try_malloc`` makes the hook return
  ``-ENOMEM``.  Here it leaves the loader as MemoryError, with everything put back: the
  host's want is neither the stream's fault nor the device's, and whoever runs the loader
  decides.
* ``never-converges``: from that call on the handler says that it is not finished, or
  that there is more to send than any bandwidth takes.  A save must end by its own bound.

A subject that runs a loader under faults reports the first three as refusals
(:func:`refusals`); of exceptions only those made here, so that a real one stays a crash.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EFAULT, ENOMEM
from typing import Any, Final

from loadfuzz.faults.kinds import FaultKind, Layer
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz_targets.hooks import (
    DEPTH_MAX,
    OF_DESCRIPTIONS,
    OF_HANDLERS,
    HookPlace,
    check_hooks,
    names_of,
    place_of,
)
from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.registry import SaveVMHandlers
from savevm.vmstate.description import VMStateDescription, VMStateField

Hook = Callable[..., object]
ENDLESS_BYTES: Final = 1 << 50
"""What a handler that never converges says is left: a petabyte, days at any bandwidth."""


class InjectedHookError(Exception):
    """What a hook raises under ``hook-raises``: no LoadError, and nothing that C has."""


class InjectedNoMemoryError(MemoryError):
    """What a hook raises under ``no-memory``."""


class HookFaults:
    """What goes wrong in the hooks of one machine during one operation.

    Args:
        plan: its other layers are passed over.
        on_strike: told of each fault that happens, in order.

    Raises:
        UsageError: the plan names a hook that no device has.
    """

    def __init__(self, plan: FaultPlan, on_strike: Callable[[Fault], None]) -> None:
        check_hooks(plan)
        self._on_strike = on_strike
        self._pending: dict[HookPlace, list[Fault]] = {}
        for fault in plan.on(Layer.DEVICE):
            self._pending.setdefault(place_of(fault.place.name), []).append(fault)
        self._calls: Counter[HookPlace] = Counter()
        self._endless: set[HookPlace] = set()

    def wrapped(self, place: HookPlace, hook: Hook) -> Hook:
        """``hook`` as it is under the plan: itself where the plan does not name it."""
        if place not in self._pending:
            return hook
        kinds = OF_DESCRIPTIONS.get(place.hook) or OF_HANDLERS[place.hook]

        def faulty(*arguments: object) -> object:
            number = self._calls[place]
            self._calls[place] += 1
            for fault in self._pending[place]:
                if fault.place.number == number and fault.kind in kinds:
                    self._on_strike(fault)
                    return self._strike(fault, place, hook, arguments)
            return self._endlessly(place, hook(*arguments))

        return faulty

    def _strike(
        self, fault: Fault, place: HookPlace, hook: Hook, arguments: tuple[object, ...]
    ) -> object:
        if fault.kind is FaultKind.NO_MEMORY:
            raise InjectedNoMemoryError(f"{place}: no memory")
        result = hook(*arguments)
        if fault.kind is FaultKind.HOOK_RAISES:
            raise InjectedHookError(f"{place} raises")
        if fault.kind is FaultKind.HOOK_REFUSES:
            return -fault.amount
        self._endless.add(place)
        return self._endlessly(place, result)

    def _endlessly(self, place: HookPlace, result: object) -> object:
        if place not in self._endless:
            return result
        return ENDLESS_BYTES if place.hook == "save_live_pending" else 0


@contextmanager
def faulty_hooks(
    machine: Machine, plan: FaultPlan, on_strike: Callable[[Fault], None]
) -> Iterator[None]:
    """Let the device faults of a plan happen inside a ``with`` block.

    Raises:
        UsageError: the plan names a hook that no device has.
    """
    faults = HookFaults(plan, on_strike)
    if not plan.on(Layer.DEVICE):
        yield
        return
    entries = list(machine.savevm.handlers)
    before = [(entry, entry.vmsd, entry.ops) for entry in entries]
    for entry in entries:
        names = names_of(entry, machine)
        if entry.vmsd is not None:
            entry.vmsd = _description(entry.vmsd, names, faults, DEPTH_MAX)
        if entry.ops is not None:
            changes = _hooks(entry.ops, OF_HANDLERS, names, faults)
            entry.ops = replace(entry.ops, **changes) if changes else entry.ops
    try:
        yield
    finally:
        for entry, vmsd, ops in before:
            entry.vmsd, entry.ops = vmsd, ops


def _description(
    vmsd: VMStateDescription, names: tuple[str, ...], faults: HookFaults, depth: int
) -> VMStateDescription:
    """``vmsd`` with the hooks that the plan names replaced, all the way down; itself where
    there are none, so that what derives from it stays known."""
    if not depth:
        return vmsd
    changes = _hooks(vmsd, OF_DESCRIPTIONS, names, faults)
    fields = tuple(_field(field, faults, depth) for field in vmsd.fields)
    if any(one is not other for one, other in zip(fields, vmsd.fields, strict=True)):
        changes["fields"] = fields
    subs = tuple(_description(sub, (sub.name,), faults, depth - 1) for sub in vmsd.subsections)
    if any(one is not other for one, other in zip(subs, vmsd.subsections, strict=True)):
        changes["subsections"] = subs
    return replace(vmsd, **changes) if changes else vmsd


def _field(field: VMStateField, faults: HookFaults, depth: int) -> VMStateField:
    if field.vmsd is None:
        return field
    inner = _description(field.vmsd, (field.vmsd.name,), faults, depth - 1)
    return field if inner is field.vmsd else replace(field, vmsd=inner)


def _hooks(
    owner: VMStateDescription | SaveVMHandlers,
    hooks: Iterable[str],
    names: tuple[str, ...],
    faults: HookFaults,
) -> dict[str, Any]:
    """The hooks of ``owner`` that the plan replaces, by attribute."""
    # What dataclasses.replace() takes by keyword has no one type.
    changes: dict[str, Any] = {}
    for hook in hooks:
        original = wrapped = getattr(owner, hook)
        if original is not None:
            for name in names:
                wrapped = faults.wrapped(HookPlace(name, hook), wrapped)
        if wrapped is not original:
            changes[hook] = wrapped
    return changes


@contextmanager
def refusals() -> Iterator[None]:
    """Report what hooks raise by plan, once the loader has let it out, as refusals.

    Raises:
        LoadError: in place of :class:`InjectedHookError` (``EFAULT``) and
            :class:`InjectedNoMemoryError` (``ENOMEM``).
    """
    try:
        yield
    except InjectedHookError as error:
        raise LoadError(str(error), errno=EFAULT) from error
    except InjectedNoMemoryError as error:
        raise LoadError(str(error), errno=ENOMEM) from error
