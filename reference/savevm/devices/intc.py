"""The interrupt controller: lines, masks, sources, contexts of up to four CPUs.

Where its fields come from: QEMU ``hw/intc/openpic.c`` (counts that must equal
the host's: CVE-2013-4534), ``hw/gpio/zaurus.c`` (masks wider than the lines:
CVE-2013-4540), ``hw/intc/i8259.c`` (an alias instance id from the days when
sections were told apart by I/O port), ``hw/acpi/ich9.c`` (a buffer whose migrated
size was larger than its memory: QEMU d9a3b33d2c).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from savevm.devices.base import U32, Fault, SimDevice, device_vmsd, first_fault, outside, unlike
from savevm.state import State
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

LINES: Final = 16
LINE_MASK: Final = (1 << LINES) - 1
CPUS_MAX: Final = 4
PRIORITIES: Final = 16
VECTORS: Final = 32
ICW_STATES: Final = 4
GPE_REGISTERS: Final = 2
NO_PRIORITY: Final = -1
LEGACY_INSTANCE_ID: Final = 0x20
"""I/O port of the first i8259: the instance id in streams of old."""

vmstate_source: Final = VMStateDescription(
    "intc/source",
    1,
    1,
    fields=(
        fields.uint8("priority"),
        fields.uint8("vector"),
        fields.bool_("level_triggered"),
        fields.uint32("destmask"),
    ),
)
vmstate_context: Final = VMStateDescription(
    "intc/cpu_context",
    1,
    1,
    fields=(
        fields.int32("ctpr"),
        fields.int32("raised_priority"),
        fields.uint32("accepted"),
    ),
)
vmstate_gpe: Final = VMStateDescription(
    "intc/gpe",
    1,
    1,
    fields=(
        # ACPI's length counts status and enable registers together.
        fields.uint8_equal("gpe_len"),
        fields.vbuffer("gpe_sts", "gpe_half"),
        fields.vbuffer("gpe_en", "gpe_half"),
    ),
    needed=lambda s: bool(s.gpe_needed()),
)
vmstate_intc: Final = device_vmsd(
    "intc",
    (
        fields.uint32_equal("nb_irqs"),
        fields.uint8_equal("nb_cpus"),
        fields.struct_varray("sources", vmstate_source, "nb_irqs", "uint32"),
        # CPUs that do not exist are NULL on both sides.
        fields.array_of_pointers("contexts", vmstate_context, CPUS_MAX),
        fields.uint32("irr"),
        fields.uint32("imr"),
        fields.uint32("isr"),
        fields.validate("masks fit the lines", lambda s, _v: s.check_masks() is None),
        fields.bitmap("levels", "nb_irqs", bits_max=64),
        fields.pointer_array("line_counts", fieldtypes.UINT32, 8),
        fields.uint8("init_state"),
        fields.uint16("spurious"),
        fields.array("queue", fieldtypes.UINT8, VECTORS),
        fields.int32("next_priority"),
    ),
    version_id=2,
    minimum_version_id=1,
    subsections=(vmstate_gpe,),
)


class HasInterrupt(Protocol):
    """Who is interrupted: a CPU."""

    def interrupt(self) -> None:
        """Ask for a hardware interrupt."""


class Source(State):
    """What one line does when it is raised."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.priority = line % PRIORITIES
        self.vector = line % VECTORS
        self.level_triggered = False
        self.destmask = 1


class CpuContext(State):
    """What the controller knows of one CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.ctpr = PRIORITIES
        self.raised_priority = NO_PRIORITY
        self.accepted = 0


def masks_fault(s: "Intc") -> Fault | None:
    """No bit stands for a line that does not exist."""
    return first_fault(
        Fault(name, f"expected at most {LINE_MASK:#x}, read {value:#x}", LINE_MASK, value)
        for name, value in (("irr", s.irr), ("imr", s.imr), ("isr", s.isr), ("levels", s.levels))
        if value & ~LINE_MASK
    )


def sources_fault(s: "Intc") -> Fault | None:
    """One source per line; priorities and vectors are indices."""
    return unlike("sources", len(s.sources), s.nb_irqs) or first_fault(
        outside(f"sources[{i}].priority", source.priority, 0, PRIORITIES - 1)
        or outside(f"sources[{i}].vector", source.vector, 0, VECTORS - 1)
        for i, source in enumerate(s.sources)
    )


def init_state_fault(s: "Intc") -> Fault | None:
    """A step of the initialisation sequence."""
    return outside("init_state", s.init_state, 0, ICW_STATES - 1)


def priority_fault(s: "Intc") -> Fault | None:
    """``next_priority`` follows from the lines; -1 when nothing is pending."""
    if first_fault((masks_fault(s), sources_fault(s))):
        return None
    return unlike("next_priority", s.next_priority, next_priority_of(s))


def next_priority_of(s: "Intc") -> int:
    """Lowest number among the lines that are raised, not masked, not served."""
    pending = s.irr & ~s.imr & ~s.isr
    best = NO_PRIORITY
    while pending:
        line = (pending & -pending).bit_length() - 1
        pending &= pending - 1
        priority = s.sources[line].priority
        if best == NO_PRIORITY or priority < best:
            best = priority
    return best


class Intc(SimDevice):
    """State of the controller.

    Attributes:
        nb_irqs, nb_cpus: the host's, must be equal (CVE-2013-4534; the arrays
            that they size come after them: CVE-2013-4526).
        sources: one per line.
        contexts: one per CPU; ``None`` for CPUs that do not exist.
        irr, imr, isr: raised, masked, in service; bit per line (B16).
        levels: a bitmap of the lines' levels, as wide as there are lines.
        line_counts: counters behind pointers, some of them ``None``.
        init_state: step of the initialisation, an index (B01).
        spurious, queue: counters.
        next_priority: priority of the best pending line, -1 for none (B15).
            It travels, as in OpenPIC, and is recomputed all the same (B17).
        gpe_sts, gpe_en: each ``gpe_half`` bytes, half of ``gpe_len``.
    """

    name = "intc"
    vmsd = vmstate_intc
    invariants = (masks_fault, sources_fault, init_state_fault, priority_fault)

    def __init__(self, cpus: int = 1) -> None:
        super().__init__()
        self.nb_irqs = LINES
        self.nb_cpus = cpus
        self.gpe_len = 2 * GPE_REGISTERS
        self.gpe_half = GPE_REGISTERS

    def register(self, machine: "Machine") -> None:
        machine.savevm.vmstate_register_with_alias_id(
            self, 0, self.description(), self, LEGACY_INSTANCE_ID, 1
        )

    def reset(self) -> None:
        self.sources = [Source(line) for line in range(LINES)]
        self.contexts: list[CpuContext | None] = [
            CpuContext() if cpu < self.nb_cpus else None for cpu in range(CPUS_MAX)
        ]
        self.irr = self.imr = self.isr = 0
        self.levels = 0
        self.line_counts: list[int | None] = [0, 0, None, 0, None, None, 0, 0]
        self.init_state = 0
        self.spurious = 0
        self.queue = [0] * VECTORS
        self.next_priority = NO_PRIORITY
        self.gpe_sts = bytearray(GPE_REGISTERS)
        self.gpe_en = bytearray(GPE_REGISTERS)

    def gpe_needed(self) -> bool:
        """Whether a general purpose event was used."""
        return any(self.gpe_sts) or any(self.gpe_en)

    def update(self) -> None:
        """Recompute what follows from the lines."""
        self.next_priority = next_priority_of(self)

    # -- what a load checks ------------------------------------------------------------

    def check_masks(self) -> Fault | None:
        """B16 (CVE-2013-4540)."""
        return masks_fault(self)

    def check_sources(self) -> Fault | None:
        """B01: priorities and vectors index tables."""
        return sources_fault(self)

    def check_init_state(self) -> Fault | None:
        """B02, B34: indexes the next write's meaning."""
        return init_state_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_masks, self.check_sources, self.check_init_state)

    def derive(self, version_id: int) -> None:
        self.update()

    # -- running -----------------------------------------------------------------------

    def set_irq(self, line: int, level: int) -> None:
        """A device drives its line."""
        bit = 1 << line % LINES
        if level:
            self.irr |= bit
            self.levels |= bit
            count = self.line_counts[line % 8]
            if count is not None:
                self.line_counts[line % 8] = count + 1 & U32
        else:
            self.levels &= ~bit
        self.update()

    def write(self, value: int) -> None:
        """The guest writes the command port: one of four steps."""
        action = (self.write_mask, self.write_priority, self.write_event, self.write_trigger)
        action[self.init_state](value)
        self.init_state = (self.init_state + 1) % ICW_STATES
        self.update()

    def write_mask(self, value: int) -> None:
        """Mask one line, or none."""
        self.imr = (1 << (value & 31)) & LINE_MASK if value & 0x100 else 0
        context = self.contexts[0]
        if context is not None:
            context.ctpr = value >> 9 & 0xF

    def write_priority(self, value: int) -> None:
        """Give a line another priority."""
        source = self.sources[value % LINES]
        source.priority = (value >> 5) % PRIORITIES
        source.destmask = value & U32

    def write_event(self, value: int) -> None:
        """Set or clear general purpose events."""
        self.gpe_sts[value & 1] = value >> 4 & 0xFF
        self.gpe_en[value & 1] = value >> 8 & 1

    def write_trigger(self, value: int) -> None:
        """Make a line level or edge triggered."""
        self.sources[value % LINES].level_triggered = bool(value & 0x80)

    def acknowledge(self) -> int:
        """The CPU asks for a vector; the best line goes into service."""
        for line in range(LINES):
            bit = 1 << line
            pending = self.irr & ~self.imr & ~self.isr
            if pending & bit and self.sources[line].priority == self.next_priority:
                source = self.sources[line]
                self.isr |= bit
                if not source.level_triggered:
                    self.irr &= ~bit
                self.queue[source.vector] = self.queue[source.vector] + 1 & 0xFF
                context = self.contexts[0]
                if context is not None:
                    context.raised_priority = self.next_priority
                    context.accepted = context.accepted + 1 & U32
                self.update()
                return source.vector
        self.spurious = self.spurious + 1 & 0xFFFF
        return VECTORS - 1

    def end_of_interrupt(self) -> None:
        """The lowest line in service is done; a level that is still high
        raises it again."""
        bit = self.isr & -self.isr
        self.isr &= ~bit
        self.irr = self.irr & ~bit | self.levels & bit
        self.levels &= ~bit
        context = self.contexts[0]
        if context is not None:
            context.raised_priority = NO_PRIORITY
        self.update()

    def step(self) -> None:
        cpu = self.machine.devices.get("cpu")
        if self.next_priority != NO_PRIORITY and cpu is not None:
            cast(HasInterrupt, cpu).interrupt()
