"""The CPU: registers, a list of coprocessor registers, exceptions, an FPU.

What it runs is :mod:`savevm.guest`.  Where its fields come from: x86's
``vmstate_x86_cpu`` (derived ``hflags``, ``fpregs_format``, exception and
interrupt numbers with -1 for none) and Arm's ``vmstate_arm_cpu`` (a counted
list of coprocessor registers that is merged with the destination's own).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from savevm import guest
from savevm.devices.base import (
    U32,
    U64,
    Fault,
    SimDevice,
    device_vmsd,
    outside,
    unlike,
)
from savevm.devices.fpu import Fpu, format_fault, stack_top_fault, vmstate_fpu
from savevm.qemufile import QEMUFileReader
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

REGISTERS: Final = 16
VECTORS: Final = 32
NO_INTERRUPT: Final = -1
CPUID_LEVEL: Final = 0xD
FLAG_IF: Final = 1 << 9
INTERRUPT_HARD: Final = 1 << 1
CPREGS: Final = (0x0010, 0x0011, 0x0020, 0x0131, 0x0240, 0x8055)
"""Coprocessor registers of this CPU, ascending as ``cpreg_indexes`` is."""
_CYCLES: Final = (1, 1, 2, 3, 0, 0, 0, 0)
"""Cycles of a step by ``hflags``: privilege level, and halted as bit 2."""

vmstate_frame: Final = VMStateDescription(
    "cpu/exception/frame",
    1,
    1,
    fields=(fields.uint64("return_pc"), fields.uint32("saved_flags")),
    needed=lambda s: bool(s.frame_valid),
    post_load=lambda s, version_id: s.post_load_frame(version_id),
)
vmstate_exception: Final = VMStateDescription(
    "cpu/exception",
    1,
    1,
    fields=(
        fields.uint8("exception_nr"),
        fields.bool_("has_error_code"),
        fields.int32("error_code"),
    ),
    needed=lambda s: bool(s.exception_pending),
    subsections=(vmstate_frame,),
    post_load=lambda s, version_id: s.post_load_exception(version_id),
)
vmstate_cpu: Final = device_vmsd(
    "cpu",
    (
        fields.array("regs", fieldtypes.UINT64, REGISTERS),
        fields.uint64("pc"),
        fields.uint32("flags"),
        fields.bool_("halted"),
        fields.uint32("interrupt_request"),
        fields.int32("interrupt_injected"),
        fields.uint32_equal("cpuid_level"),
        fields.uint64("lcg"),
        fields.struct("fpu", vmstate_fpu),
        # Arm's cpreg_vmstate_array_len: int32, and "int32 le" since
        # CVE-2013-4531, where a negative count passed.
        fields.int32_le("cpreg_count"),
        fields.varray("cpreg_indexes", fieldtypes.UINT64, "cpreg_count", "int32"),
        fields.varray("cpreg_values", fieldtypes.UINT64, "cpreg_count", "int32"),
        fields.validate("cpregs known", lambda s, _v: s.check_cpregs() is None),
        fields.array("vector_counts", fieldtypes.UINT16, VECTORS),
        timer_field("deadline"),
        fields.uint64("xcr0", 4),
        fields.uint32("smbase", exists=lambda s, version: bool(s.has_smm) and version >= 4),
    ),
    version_id=4,
    minimum_version_id=3,
    minimum_version_id_old=2,
    load_state_old=lambda f, s, version_id: s.load_old(f, version_id),
    subsections=(vmstate_exception,),
)


def interrupt_fault(s: "Cpu") -> Fault | None:
    """-1 or a vector."""
    return outside("interrupt_injected", s.interrupt_injected, NO_INTERRUPT, VECTORS - 1)


def exception_fault(s: "Cpu") -> Fault | None:
    """A vector."""
    return outside("exception_nr", s.exception_nr, 0, VECTORS - 1)


def hflags_fault(s: "Cpu") -> Fault | None:
    """``hflags`` follows from ``flags`` and ``halted``."""
    return unlike("hflags", s.hflags, hflags_of(s.flags, s.halted))


def cpreg_fault(s: "Cpu") -> Fault | None:
    """The list holds registers of this CPU, ascending, none twice."""
    fault = outside("cpreg_count", s.cpreg_count, 0, len(CPREGS))
    previous = -1
    for index in s.cpreg_indexes[: 0 if fault else s.cpreg_count]:
        if index not in CPREGS or index <= previous:
            return Fault("cpreg_indexes", f"register {index:#x} is unknown or out of order",
                         CPREGS, index)  # fmt: skip
        previous = index
    return fault


def cpregs_merged_fault(s: "Cpu") -> Fault | None:
    """Outside a load the list is complete."""
    return unlike("cpreg_indexes", tuple(s.cpreg_indexes), CPREGS)


def hflags_of(flags: int, halted: bool) -> int:
    """The state that is kept ready for each step, 0..7."""
    return (flags >> 12 & 3) | (4 if halted else 0)


class Cpu(SimDevice):
    """State of one CPU.

    Attributes:
        regs, pc, flags: the guest's own, any value is good.
        halted: waiting for an interrupt.
        hflags: derived, never on the wire (B17): index into the table of
            cycles.
        interrupt_request: bit mask, the guest's.
        interrupt_injected: vector under way or -1 (a sentinel: B15), used as
            an index by the next step (B02).
        cpuid_level: host configuration, must be equal.
        lcg: seed of the guest's pseudo-random numbers: all of its chance.
        cpreg_count, cpreg_indexes, cpreg_values: registers by number.  A
            stream may bring fewer; those it lacks keep their reset value
            (the tail of the merge is what QEMU dbfed8d808 fixed).
        vector_counts: interrupts taken, by vector.
        deadline: timer that the guest arms.
        xcr0: since version 4.  smbase: if ``has_smm``.
        exception_pending, exception_nr, has_error_code, error_code: subsection.
        frame_valid, return_pc, saved_flags: subsection inside it.
    """

    name = "cpu"
    vmsd = vmstate_cpu
    invariants = (
        interrupt_fault,
        exception_fault,
        hflags_fault,
        cpreg_fault,
        cpregs_merged_fault,
        lambda s: stack_top_fault(s.fpu),
        lambda s: format_fault(s.fpu),
    )
    deadline: QEMUTimer

    def __init__(self, *, seed: int = 0x5EED, has_smm: bool = True) -> None:
        super().__init__()
        self.seed = seed & U64
        self.has_smm = has_smm
        self.cpuid_level = CPUID_LEVEL
        self.fpu = Fpu()

    def create(self, machine: "Machine") -> None:
        self.deadline = machine.timers.new_ns(self.deadline_reached)

    def reset(self) -> None:
        self.regs = [0] * REGISTERS
        self.pc = 0
        self.flags = FLAG_IF
        self.halted = False
        self.interrupt_request = 0
        self.interrupt_injected = NO_INTERRUPT
        self.lcg = self.seed
        self.fpu.reset()
        self.reset_cpregs()
        self.vector_counts = [0] * VECTORS
        self.deadline.delete()
        self.xcr0 = 1
        self.smbase = 0x30000
        self.clear_exception()
        self.update_hflags()

    def reset_cpregs(self) -> None:
        """Every coprocessor register at its reset value."""
        self.cpreg_count = len(CPREGS)
        self.cpreg_indexes = list(CPREGS)
        self.cpreg_values = [0] * len(CPREGS)

    def clear_exception(self) -> None:
        """No exception: neither subsection is needed."""
        self.exception_pending = False
        self.exception_nr = 0
        self.has_error_code = False
        self.error_code = 0
        self.frame_valid = False
        self.return_pc = 0
        self.saved_flags = 0

    def update_hflags(self) -> None:
        """Recompute ``hflags``; whoever changes flags or halted calls this."""
        self.hflags = hflags_of(self.flags, self.halted)

    # -- what a load checks ------------------------------------------------------------

    def check_cpregs(self) -> Fault | None:
        """Arm: a register this CPU does not have cannot be loaded."""
        return cpreg_fault(self)

    def check_interrupt(self) -> Fault | None:
        """B02, B15: -1 or an index into ``vector_counts``."""
        return interrupt_fault(self)

    def check_exception(self) -> Fault | None:
        """B02: an index into ``vector_counts``."""
        return exception_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (
            self.check_interrupt,
            self.check_cpregs,
            self.fpu.check_stack_top,
            self.fpu.check_format,
        )

    def derive(self, version_id: int) -> None:
        self.merge_cpregs()
        self.update_hflags()

    def merge_cpregs(self) -> None:
        """Bring the loaded list to the full list of this CPU."""
        given = dict(
            zip(
                self.cpreg_indexes[: self.cpreg_count],
                self.cpreg_values[: self.cpreg_count],
                strict=True,
            )
        )
        self.reset_cpregs()
        self.cpreg_values = [given.get(index, 0) for index in CPREGS]

    def post_load_exception(self, version_id: int) -> int | None:
        """The subsection is there, so an exception is pending."""
        del version_id
        fault = self.check_exception()
        if fault is not None:
            raise fault.error()
        self.exception_pending = True
        return 0

    def post_load_frame(self, version_id: int) -> int | None:
        """The subsection is there, so there is a frame."""
        del version_id
        self.frame_valid = True
        return 0

    def load_old(self, f: QEMUFileReader, version_id: int) -> int | None:
        """Version 2: 32-bit registers, and no more than these (``cpu_load_old``
        of x86 before descriptions)."""
        del version_id
        self.reset()
        self.regs = [f.get_be32("regs") for _ in range(REGISTERS)]
        self.pc = f.get_be32("pc")
        self.flags = f.get_be32("flags")
        self.lcg = f.get_be64("lcg")
        self.update_hflags()
        return f.get_error()

    # -- running ---------------------------------------------------------------------------

    def deadline_reached(self) -> None:
        """The timer that the guest armed."""
        self.regs[14] = self.regs[14] + 1 & U64
        self.interrupt()

    def interrupt(self) -> None:
        """Ask for a hardware interrupt (``cpu_interrupt``)."""
        self.interrupt_request |= INTERRUPT_HARD

    def raise_exception(self, number: int, error_code: int | None) -> None:
        """Make an exception pending; the next step delivers it."""
        self.exception_pending = True
        self.exception_nr = number % VECTORS
        self.has_error_code = error_code is not None
        self.error_code = error_code or 0
        self.frame_valid = True
        self.return_pc, self.saved_flags = self.pc, self.flags

    def step(self) -> None:
        self.regs[15] = self.regs[15] + _CYCLES[self.hflags] & U64
        if self.exception_pending:
            self.count_vector(self.exception_nr)
            if self.frame_valid:
                self.pc, self.flags = self.return_pc, self.saved_flags & U32
            self.clear_exception()
        elif self.interrupt_injected != NO_INTERRUPT:
            self.count_vector(self.interrupt_injected)
            self.interrupt_injected = NO_INTERRUPT
            guest.end_of_interrupt(self)
        elif self.interrupt_request & INTERRUPT_HARD and self.flags & FLAG_IF:
            self.interrupt_request &= ~INTERRUPT_HARD
            self.interrupt_injected = guest.acknowledge_interrupt(self) % VECTORS
            self.halted = False
        elif not self.halted:
            guest.execute(self)
        self.update_hflags()

    def count_vector(self, vector: int) -> None:
        """An interrupt or exception was taken."""
        self.vector_counts[vector] = self.vector_counts[vector] + 1 & 0xFFFF
