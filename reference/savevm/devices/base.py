"""What every simulated device shares: realizing, resetting, checking, stepping.

Theory of operation.  A device is a :class:`~savevm.state.State`, so its
attributes are its migratable state; the machine it sits on is no State and is
neither captured nor digested.  Other devices are reached through the machine,
never through an attribute.

A device is checked in two ways that share nothing but small pure functions
``xxx_fault(device) -> Fault | None``:

* ``invariants`` lists those functions; :meth:`SimDevice.check_invariants` runs
  them at any time, on any state.
* a load runs the device's ``check_xxx`` methods (from ``post_load``, from
  ``validate`` fields, or both) and refuses what they object to.

They are apart so that a device with one check of its load taken away (what
the bug bench plants) still tells that its state is impossible.

What a guest may write into a register is masked where it is written or used
and never refused by a load (QEMU f30815390a, d68cdae30e: a guest could pin
itself); what only the device itself computes (indices, counts, sizes) is
validated by the load and then used as it is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from savevm.errors import LoadError
from savevm.state import State
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField

if TYPE_CHECKING:
    from savevm.machine import Machine
    from savevm.ram.blocks import RAMBlock
    from savevm.timers import QEMUTimer

INT32_MAX: Final = (1 << 31) - 1
INT64_MAX: Final = (1 << 63) - 1
U8: Final = 0xFF
U16: Final = 0xFFFF
U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Fault:
    """One impossible thing about a state.

    Attributes:
        field: what is wrong, as a path inside the device.
        reason: why, in a phrase.
        expected: the bound or value that would have been right.
        actual: the value found.
    """

    field: str
    reason: str
    expected: object = None
    actual: object = None

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"

    def error(self) -> LoadError:
        """The refusal that this fault means for a load."""
        return LoadError(
            self.reason, path=(self.field,), expected=self.expected, actual=self.actual
        )


FaultTest = Callable[[Any], "Fault | None"]
"""A pure function over one kind of state; it changes nothing."""


def outside(field: str, value: int, least: int, most: int) -> Fault | None:
    """A fault unless ``least <= value <= most``."""
    if least <= value <= most:
        return None
    return Fault(field, f"expected {least} to {most}, read {value}", (least, most), value)


def unlike(field: str, value: object, expected: object) -> Fault | None:
    """A fault unless ``value == expected``."""
    if value == expected:
        return None
    return Fault(field, f"expected {expected!r}, read {value!r}", expected, value)


def first_fault(faults: Iterable[Fault | None]) -> Fault | None:
    """The first fault there is."""
    return next((fault for fault in faults if fault is not None), None)


def wrap_int64(value: int) -> int:
    """``value`` as two's complement 64-bit arithmetic leaves it."""
    value &= U64
    return value - (1 << 64) if value > INT64_MAX else value


class IrqSink(Protocol):
    """Who takes interrupts: the interrupt controller."""

    def set_irq(self, line: int, level: int) -> None:
        """Drive input ``line`` to ``level``, 0 or 1."""


def first_block(machine: "Machine") -> "RAMBlock | None":
    """The machine's main memory, or ``None`` on a machine without RAM."""
    if machine.ram is None:
        return None
    blocks = machine.ram.blocks
    return blocks[0] if blocks else None


class SimDevice(State):
    """A device of the simulated machine (:class:`savevm.machine.Device`).

    Class attributes:
        name: key in ``machine.devices``.
        vmsd: how its state travels; ``None`` for old-style devices.
        invariants: what must be true of its state at any time.
        not_migrated: attributes that a stream does not carry and that do not
            follow from what it carries.
    """

    name: ClassVar[str]
    vmsd: ClassVar[VMStateDescription | None] = None
    invariants: ClassVar[tuple[FaultTest, ...]] = ()
    not_migrated: ClassVar[frozenset[str]] = frozenset()
    machine: "Machine"

    def realize(self, machine: "Machine") -> None:
        """Put the device on ``machine``: make what it keeps for life, reset it,
        and register how it is saved."""
        self.machine = machine
        self.create(machine)
        self.reset()
        machine.devices[self.name] = self
        self.register(machine)

    def create(self, machine: "Machine") -> None:
        """Make timers and everything else that survives a reset."""

    def register(self, machine: "Machine") -> None:
        """Tell the registry how this device is saved and loaded."""
        machine.savevm.vmstate_register(self, 0, self.description(), self)

    def description(self) -> VMStateDescription:
        """How this device's state travels.

        Raises:
            ValueError: the device is old-style and has no description.
        """
        if self.vmsd is None:
            raise ValueError(f"{self.name} has no description")
        return self.vmsd

    def dev_path(self) -> str | None:
        """Path on its bus, or ``None``."""
        return None

    def reset(self) -> None:
        """Back to the state after power-on."""

    def step(self) -> None:
        """One guest step's worth of work."""

    def check_invariants(self) -> list[str]:
        """What is impossible about the present state; empty when all is well."""
        return [str(fault) for test in self.invariants if (fault := test(self)) is not None]

    # -- hooks of the description ------------------------------------------------------

    def pre_load(self) -> int | None:
        """Back to defaults what a stream need not carry, so that loading over
        a machine that ran gives what loading into a fresh one gives."""
        self.reset()
        return 0

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        """What a load asks of this device, in order."""
        return ()

    def post_load(self, version_id: int) -> int | None:
        """Refuse what is impossible, then recompute what does not travel.

        Raises:
            LoadError: a check of :meth:`load_checks` objects.
        """
        self.refuse_faults()
        self.derive(version_id)
        return 0

    def refuse_faults(self) -> None:
        """Raise the first objection of :meth:`load_checks`."""
        for check in self.load_checks():
            fault = check()
            if fault is not None:
                raise fault.error()

    def derive(self, version_id: int) -> None:
        """Recompute state that follows from what was loaded."""

    def pre_save(self) -> int | None:
        """Compute what travels in another form than it is kept in."""
        return 0

    # -- what devices do to each other ---------------------------------------------------

    def raise_irq(self, line: int, level: int = 1) -> None:
        """Drive an input of the interrupt controller, if there is one."""
        controller = self.machine.devices.get("intc")
        if controller is not None:
            cast(IrqSink, controller).set_irq(line, level)

    def dma_bytes(self) -> int:
        """Bytes of RAM that devices can reach; 0 on a machine without RAM."""
        block = first_block(self.machine)
        return block.used_length if block is not None else 0

    def dma_write(self, address: int, data: bytes) -> None:
        """Write to RAM at a guest address; an address past the end wraps, as
        address lines that are not connected do."""
        block = first_block(self.machine)
        if block is not None and len(data) <= block.used_length:
            block.write(address % (block.used_length - len(data) + 1), data)

    def dma_read(self, address: int, size: int) -> bytes:
        """Read RAM at a guest address in the same way; zeros without RAM."""
        block = first_block(self.machine)
        if block is None or size > block.used_length:
            return bytes(size)
        return block.read(address % (block.used_length - size + 1), size)

    def arm(self, timer: "QEMUTimer", delay_ns: int) -> None:
        """Arm ``timer`` for ``delay_ns`` from now, within what can travel."""
        timer.mod_ns(min(self.machine.clock.now_ns + delay_ns, INT64_MAX))


def call_pre_load(opaque: Opaque) -> int | None:
    """``pre_load`` hook that asks the state itself."""
    result: int | None = opaque.pre_load()
    return result


def call_post_load(opaque: Opaque, version_id: int) -> int | None:
    """``post_load`` hook that asks the state itself."""
    result: int | None = opaque.post_load(version_id)
    return result


def call_pre_save(opaque: Opaque) -> int | None:
    """``pre_save`` hook that asks the state itself."""
    result: int | None = opaque.pre_save()
    return result


def device_vmsd(
    name: str,
    fields: tuple[VMStateField, ...],
    *,
    version_id: int = 1,
    minimum_version_id: int = 1,
    subsections: tuple[VMStateDescription, ...] = (),
    **more: Any,
) -> VMStateDescription:
    """A description whose hooks are the methods of the state it is applied to."""
    return VMStateDescription(
        name,
        version_id,
        minimum_version_id,
        fields=fields,
        subsections=subsections,
        pre_load=call_pre_load,
        post_load=call_post_load,
        pre_save=call_pre_save,
        **more,
    )


def migratable(device: SimDevice) -> State:
    """A view of ``device`` without what a stream does not carry; the machine
    is no state and falls away by itself."""
    view: Mapping[str, object] = {
        attr: value for attr, value in vars(device).items() if attr not in device.not_migrated
    }
    return State(**view)
