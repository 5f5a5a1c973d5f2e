"""A high precision event timer: a counted array of structs with timers in them.

Where its fields come from: QEMU ``hw/timer/hpet.c``.  ``num_timers`` is validated
between the count and the VARRAY it sizes (CVE-2013-4527, QEMU 3f1c49e213), and
must not rewrite the host's configuration (QEMU 1433e38cc8).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from savevm.devices.base import (
    INT64_MAX,
    U64,
    Fault,
    SimDevice,
    device_vmsd,
    first_fault,
    outside,
    unlike,
)
from savevm.state import State
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

MIN_TIMERS: Final = 3
MAX_TIMERS: Final = 4
"""QEMU has up to 32; four are enough to have one more than the minimum."""
CLOCK_PERIOD_NS: Final = 10
TICKS_PER_STEP: Final = 1000
"""A guest step takes 10 µs."""
PERIOD_MIN: Final = 20_000
"""Ticks, 20 guest steps.  QEMU bounds the period too: with a shorter one the
guest does nothing but take interrupts."""
TN_PERIODIC: Final = 0x08
TN_ENABLE: Final = 0x04
CFG_ENABLE: Final = 0x01
IRQ_LINE: Final = 2

vmstate_hpet_timer: Final = VMStateDescription(
    "hpet_timer",
    1,
    1,
    fields=(
        fields.uint8("tn"),
        fields.uint64("config"),
        fields.uint64("cmp"),
        fields.uint64("fsb"),
        fields.uint64("period"),
        fields.uint8("wrap_flag"),
        timer_field("qemu_timer"),
    ),
)
vmstate_offset: Final = VMStateDescription(
    "hpet/offset",
    1,
    1,
    fields=(fields.uint64("hpet_offset"),),
    needed=lambda s: bool(s.hpet_offset),
)
vmstate_rtc_irq: Final = VMStateDescription(
    "hpet/rtc_irq_level",
    1,
    1,
    fields=(fields.uint8("rtc_irq_level"),),
    needed=lambda s: bool(s.rtc_irq_level),
)
vmstate_hpet: Final = device_vmsd(
    "hpet",
    (
        fields.uint64("config"),
        fields.uint64("isr"),
        fields.uint64("hpet_counter"),
        fields.uint8("num_timers", 2),
        fields.validate("num_timers must match", lambda s, _v: s.check_num_timers() is None),
        fields.struct_varray("timers", vmstate_hpet_timer, "num_timers", "uint8"),
    ),
    version_id=2,
    minimum_version_id=1,
    subsections=(vmstate_rtc_irq, vmstate_offset),
)


class HpetTimer(State):
    """One comparator.

    Attributes:
        tn: its own number.
        config, cmp, fsb: the guest's.
        period: ticks between interrupts of a periodic timer, the guest's:
            clamped where it is used (B44: QEMU would fire for ever).
        wrap_flag: truth value.
        qemu_timer: fires when the comparator matches.
    """

    def __init__(self, tn: int, qemu_timer: QEMUTimer) -> None:
        super().__init__()
        self.tn = tn
        self.qemu_timer = qemu_timer
        self.reset()

    def reset(self) -> None:
        """State after power-on."""
        self.config = 0
        self.cmp = U64
        self.fsb = 0
        self.period = 0
        self.wrap_flag = 0
        self.qemu_timer.delete()


def num_timers_fault(s: "Hpet") -> Fault | None:
    """At least three, at most what there is memory for, and the host's number."""
    return outside("num_timers", s.num_timers, MIN_TIMERS, len(s.timers)) or unlike(
        "num_timers", s.num_timers, s.host_timers
    )


def numbers_fault(s: "Hpet") -> Fault | None:
    """Each timer knows its own number."""
    return first_fault(unlike(f"timers[{i}].tn", t.tn, i) for i, t in enumerate(s.timers))


def capability_fault(s: "Hpet") -> Fault | None:
    """The capability register says how many timers there are."""
    return unlike("capability", s.capability, capability_of(s.num_timers))


def capability_of(num_timers: int) -> int:
    """``HPET_ID``: vendor, number of the last timer, period in femtoseconds."""
    return 0x8086A001 | (num_timers - 1) << 8 | CLOCK_PERIOD_NS * 1_000_000 << 32


class Hpet(SimDevice):
    """State of the timer block.

    Attributes:
        host_timers: how many this machine was given.
        num_timers: the same, as it travels (B03, B04, B10).
        timers: as many comparators.
        config, isr, hpet_counter, hpet_offset: the guest's; the offset is a
            subsection.
        rtc_irq_level: 0 or 1; a subsection.
        capability: derived from ``num_timers``, never on the wire (B17).
    """

    name = "hpet"
    vmsd = vmstate_hpet
    invariants = (num_timers_fault, numbers_fault, capability_fault)

    def __init__(self, timers: int = MIN_TIMERS) -> None:
        super().__init__()
        self.host_timers = timers

    def create(self, machine: "Machine") -> None:
        self.timers: list[HpetTimer] = []
        for tn in range(self.host_timers):
            timer = machine.timers.new_ns(partial(self.fire, tn))
            self.timers.append(HpetTimer(tn, timer))

    def reset(self) -> None:
        self.config = 0
        self.isr = 0
        self.hpet_counter = 0
        self.hpet_offset = 0
        self.rtc_irq_level = 0
        self.num_timers = self.host_timers
        for tn, timer in enumerate(self.timers):
            timer.tn = tn
            timer.reset()
        self.update_capability()

    def update_capability(self) -> None:
        """Recompute the capability register."""
        self.capability = capability_of(self.num_timers)

    # -- what a load checks ------------------------------------------------------------

    def check_num_timers(self) -> Fault | None:
        """B03, B05, B10 (CVE-2013-4527): between the count and the array."""
        return num_timers_fault(self)

    def check_numbers(self) -> Fault | None:
        """B01: the number is an index for whoever fires."""
        return numbers_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_num_timers, self.check_numbers)

    def derive(self, version_id: int) -> None:
        self.update_capability()

    # -- running -----------------------------------------------------------------------

    def ticks(self) -> int:
        """What the guest reads from the main counter."""
        return self.hpet_counter + self.hpet_offset & U64

    def program(self, value: int) -> None:
        """The guest sets up a comparator, periodic or not."""
        timer = self.timers[value % self.num_timers]
        self.config |= CFG_ENABLE
        self.hpet_offset = value & 0xFF
        timer.config = TN_ENABLE | (TN_PERIODIC if value & 0x100 else 0)
        timer.period = value >> 4 & 0xFFFF
        timer.cmp = self.ticks() + timer.period & U64
        timer.wrap_flag = value >> 9 & 1
        timer.fsb = value << 32 & U64
        self.set_timer(timer)

    def set_timer(self, timer: HpetTimer) -> None:
        """Arm the timer for its period, within what it can bear."""
        ticks = max(timer.period, PERIOD_MIN)
        self.arm(timer.qemu_timer, min(ticks * CLOCK_PERIOD_NS, INT64_MAX))

    def fire(self, tn: int) -> None:
        """A comparator matched."""
        timer = self.timers[tn]
        self.isr |= 1 << timer.tn
        self.rtc_irq_level = self.rtc_irq_level & 1 ^ 1
        self.raise_irq(IRQ_LINE + timer.tn)
        if timer.config & TN_PERIODIC:
            timer.cmp = timer.cmp + timer.period & U64
            self.set_timer(timer)

    def step(self) -> None:
        if self.config & CFG_ENABLE:
            self.hpet_counter = self.hpet_counter + TICKS_PER_STEP & U64
