"""A real-time clock: CMOS memory, a calendar, two timers.

Where its fields come from: QEMU ``hw/rtc/mc146818rtc.c``, whose description has
grown from version 1 to 3, with holes of unused bytes where fields were, and a
subsection that could not be loaded for years because its name did not begin
with the parent's (QEMU bb42631190).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from savevm.devices.base import (
    INT64_MAX,
    U16,
    U64,
    Fault,
    SimDevice,
    device_vmsd,
    first_fault,
    outside,
    unlike,
    wrap_int64,
)
from savevm.state import State
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

CMOS_BYTES: Final = 128
REG_A: Final = 10
REG_B: Final = 11
REG_C: Final = 12
REG_B_PIE: Final = 0x40
REG_C_PF: Final = 0x40
IRQ_LINE: Final = 8
PERIOD_MAX: Final = 32_768
"""Cycles of the 32 kHz clock in the longest period that register A can ask for."""
_CYCLE_NS: Final = 30_517
_UPDATE_NS: Final = 100_000
"""The simulated calendar jumps ahead every ten steps: a guest lives for some
hundred steps of 10 µs, and months should pass in it."""
DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
DAYS_BEFORE: Final = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)

vmstate_calendar: Final = VMStateDescription(
    "rtc/calendar",
    3,
    1,
    fields=(
        fields.int32("sec"),
        fields.int32("min"),
        fields.int32("hour"),
        fields.int32("mday"),
        fields.int32("mon"),
        fields.int32("year"),
        fields.int8("dst", 3),  # never sent: the device sends version 2
    ),
)
vmstate_irq_reinject: Final = VMStateDescription(
    "mc146818rtc/irq_reinject_on_ack_count",
    1,
    1,
    fields=(fields.uint16("irq_reinject_on_ack_count"),),
    needed=lambda s: bool(s.irq_reinject_on_ack_count),
)
vmstate_rtc: Final = device_vmsd(
    "mc146818rtc",
    (
        fields.buffer("cmos_data", CMOS_BYTES),
        fields.uint8("cmos_index"),
        fields.unused(7 * 4),
        timer_field("periodic_timer"),
        fields.int64("next_periodic_time"),
        fields.unused(3 * 8),
        fields.uint32("irq_coalesced", 2),
        fields.uint32("period", 2),
        fields.uint64("base_rtc", 3),
        fields.uint64("last_update", 3),
        fields.int64("offset", 3),
        timer_field("update_timer", 3),
        fields.uint64("next_alarm_time", 3),
        fields.vstruct("calendar", vmstate_calendar, 2, 3),
    ),
    version_id=3,
    minimum_version_id=1,
    subsections=(vmstate_irq_reinject,),
)


class Calendar(State):
    """``struct tm`` as the device keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """The first of January."""
        self.sec = self.min = self.hour = self.mon = 0
        self.mday = 1
        self.year = 115
        self.dst = 0


def index_fault(s: "Rtc") -> Fault | None:
    """The index stays inside CMOS memory."""
    return outside("cmos_index", s.cmos_index, 0, CMOS_BYTES - 1)


def period_fault(s: "Rtc") -> Fault | None:
    """Register A cannot ask for more."""
    return outside("period", s.period, 0, PERIOD_MAX)


def calendar_fault(s: "Rtc") -> Fault | None:
    """Every part of the date exists, the day in its month."""
    c = s.calendar
    return first_fault(
        (
            outside("calendar.sec", c.sec, 0, 59),
            outside("calendar.min", c.min, 0, 59),
            outside("calendar.hour", c.hour, 0, 23),
            outside("calendar.mon", c.mon, 0, 11),
            outside("calendar.year", c.year, 0, 9999),
        )
    ) or outside("calendar.mday", c.mday, 1, DAYS[c.mon])


def yday_fault(s: "Rtc") -> Fault | None:
    """``yday`` follows from the date."""
    if calendar_fault(s):
        return None
    return unlike("yday", s.yday, DAYS_BEFORE[s.calendar.mon] + s.calendar.mday - 1)


class Rtc(SimDevice):
    """State of the clock.

    Attributes:
        cmos_data: the guest's, any value is good.
        cmos_index: the guest's, but seven bits wide (B02): an index that the
            next access uses.
        period: cycles between periodic interrupts, 0 for none (B14: missed
            interrupts are counted by dividing through it).
        irq_coalesced, irq_reinject_on_ack_count: counters.
        next_periodic_time, next_alarm_time, base_rtc, last_update, offset:
            times, any value is good.
        calendar: the date; months index tables (B01, at load and later).
        yday: day of the year, derived, never on the wire (B17).
        periodic_timer, update_timer: B44.
    """

    name = "rtc"
    vmsd = vmstate_rtc
    invariants = (index_fault, period_fault, calendar_fault, yday_fault)
    periodic_timer: QEMUTimer
    update_timer: QEMUTimer

    def __init__(self) -> None:
        super().__init__()
        self.calendar = Calendar()

    def create(self, machine: "Machine") -> None:
        self.periodic_timer = machine.timers.new_ns(self.periodic)
        self.update_timer = machine.timers.new_ns(self.update)

    def reset(self) -> None:
        self.cmos_data = bytearray(CMOS_BYTES)
        self.cmos_data[REG_A] = 0x26
        self.cmos_index = 0
        self.period = 0
        self.irq_coalesced = 0
        self.irq_reinject_on_ack_count = 0
        self.next_periodic_time = 0
        self.next_alarm_time = INT64_MAX
        self.base_rtc = 1_420_070_400
        self.last_update = 0
        self.offset = 0
        self.calendar.reset()
        self.periodic_timer.delete()
        self.update_timer.delete()
        self.update_yday()

    def update_yday(self) -> None:
        """Recompute the day of the year; the month is an index."""
        self.yday = DAYS_BEFORE[self.calendar.mon] + self.calendar.mday - 1

    # -- what a load checks ------------------------------------------------------------

    def check_index(self) -> Fault | None:
        """B02."""
        return index_fault(self)

    def check_period(self) -> Fault | None:
        """B14, B44: no period that the registers cannot express."""
        return period_fault(self)

    def check_calendar(self) -> Fault | None:
        """B01: before :meth:`derive` uses the month."""
        return calendar_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_index, self.check_period, self.check_calendar)

    def derive(self, version_id: int) -> None:
        if version_id < 3:
            # Before version 3 the date was read from CMOS memory and the update timer did
            # not exist (rtc_post_load).  It is armed with the next step: what the time is
            # now, a section behind ours may say, and what it was before this load must not
            # matter.
            self.update_timer.delete()
        self.update_yday()

    # -- running -----------------------------------------------------------------------

    def write(self, index: int, value: int) -> None:
        """The guest writes the index port, then the data port."""
        self.cmos_index = index & (CMOS_BYTES - 1)
        self.cmos_data[self.cmos_index] = value & 0xFF
        if self.cmos_index in (REG_A, REG_B):
            rate = self.cmos_data[REG_A] & 15
            enabled = self.cmos_data[REG_B] & REG_B_PIE and rate
            self.period = 1 << (rate - 1) if enabled else 0
            if self.period:
                self.arm(self.periodic_timer, self.period * _CYCLE_NS)

    def set_alarm(self, value: int) -> None:
        """The guest sets the alarm."""
        self.next_alarm_time = (self.last_update + value) & U64

    def read(self) -> int:
        """The guest reads the data port; reading register C acknowledges."""
        value = self.cmos_data[self.cmos_index]
        if self.cmos_index == REG_C:
            self.cmos_data[REG_C] = 0
        return value

    def periodic(self) -> None:
        """The periodic timer fired."""
        self.cmos_data[REG_C] |= REG_C_PF
        self.raise_irq(IRQ_LINE)
        if self.period:
            late = self.machine.clock.now_ns - self.next_periodic_time
            missed = late // (self.period * _CYCLE_NS)
            self.irq_coalesced = max(0, min(missed, U16))
            self.irq_reinject_on_ack_count = self.irq_coalesced & 3
            self.arm(self.periodic_timer, self.period * _CYCLE_NS)
            self.next_periodic_time = wrap_int64(
                self.machine.clock.now_ns + self.period * _CYCLE_NS
            )

    def update(self) -> None:
        """Time passed."""
        c = self.calendar
        self.base_rtc = self.base_rtc + 1 & U64
        self.last_update = self.machine.clock.now_ns & U64
        c.sec = (c.sec + 17) % 60
        c.min = (c.min + 7) % 60
        c.hour = (c.hour + 5) % 24
        c.mday += 1
        if c.mday > DAYS[c.mon]:
            c.mday, c.mon = 1, (c.mon + 1) % 12
            c.year = (c.year + (c.mon == 0)) % 10_000
        self.offset = wrap_int64(self.offset - c.sec)
        self.update_yday()
        self.arm(self.update_timer, _UPDATE_NS)

    def step(self) -> None:
        if not self.update_timer.pending():
            self.arm(self.update_timer, _UPDATE_NS)
