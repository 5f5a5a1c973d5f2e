"""The ``timer`` section: virtual time and ticks, byte for byte as QEMU 7.2 has it.

48 bytes with header and footer: be64 ``cpu_ticks_offset``, 8 unused bytes, be64
``cpu_clock_offset`` (since version 2).  Sources: ``vmstate_timers`` of QEMU's
``softmmu/cpu-timers.c``, ``icount_vmstate_timers`` beside it.  Every 64-bit
value is accepted, as QEMU accepts it: time is a number that wraps, and what
would be dangerous about it is the timers' business (:func:`savevm.timers.timer_get`).
"""

from typing import TYPE_CHECKING, Final

from savevm.devices.base import (
    INT64_MAX,
    Fault,
    SimDevice,
    call_post_load,
    call_pre_load,
    call_pre_save,
    outside,
    wrap_int64,
)
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine
    from savevm.timers import VirtualClock

TICKS_PER_STEP: Final = 21_000
"""``cpu_ticks`` that one guest step takes: 2.1 GHz."""
ICOUNT_SHIFT_MAX: Final = 10
"""``MAX_ICOUNT_SHIFT`` of QEMU."""
SHIFT_AT_START: Final = 3
NO_WARP: Final = -1


def shift_fault(s: "TimerBoard") -> Fault | None:
    """``icount_time_shift`` is a shift count."""
    return outside("icount_time_shift", s.icount_time_shift, 0, ICOUNT_SHIFT_MAX)


def clock_fault(s: "TimerBoard") -> Fault | None:
    """Virtual time fits the 64 bits it travels in."""
    bound = 1 << 63
    return outside("clock.now_ns", s.clock.now_ns, -bound, bound - 1)


vmstate_warp_timer: Final = VMStateDescription(
    "timer/icount/warp_timer",
    1,
    1,
    fields=(fields.int64("vm_clock_warp_start"),),
    needed=lambda s: bool(s.warp_timer_needed()),
)

vmstate_shift: Final = VMStateDescription(
    "timer/icount/shift",
    2,
    2,
    fields=(fields.int16("icount_time_shift"),),
    needed=lambda s: bool(s.shift_needed()),
    # B17, B21: the shift is used by every later read of the clock.
    post_load=lambda s, version_id: s.post_load_shift(version_id),
)

vmstate_icount: Final = VMStateDescription(
    "timer/icount",
    1,
    1,
    fields=(fields.int64("qemu_icount_bias"), fields.int64("qemu_icount")),
    needed=lambda s: bool(s.icount_needed()),
    subsections=(vmstate_warp_timer, vmstate_shift),
)

vmstate_timers: Final = VMStateDescription(
    "timer",
    2,
    1,
    fields=(
        fields.int64("cpu_ticks_offset"),
        fields.unused(8),
        fields.int64("cpu_clock_offset", 2),
    ),
    subsections=(vmstate_icount,),
    pre_load=call_pre_load,
    post_load=call_post_load,
    pre_save=call_pre_save,
)


class TimerBoard(SimDevice):
    """``TimersState``: the machine's clock as the stream knows it.

    Attributes:
        clock: the machine's virtual clock.  It is held here, as a State, so
            that it is rolled back with the section that sets it.
        cpu_ticks_offset: int64, ticks that have passed.
        cpu_clock_offset: int64, nanoseconds of virtual time at the last save
            or load.
        icount: whether instructions are counted (off: as plain ``-M none``,
            and no subsection travels).
        qemu_icount, qemu_icount_bias: int64, instructions and their offset.
        vm_clock_warp_start: int64, -1 when no warp is under way (a sentinel
            that must not be used as a time: B15).
        icount_time_shift: int16, nanoseconds per instruction as a power of 2.
    """

    name = "timer"
    vmsd = vmstate_timers
    invariants = (shift_fault, clock_fault)

    clock: "VirtualClock"

    def __init__(self, *, icount: bool = False) -> None:
        super().__init__()
        self.icount = icount
        self.cpu_ticks_offset = 0
        self.cpu_clock_offset = 0
        self.qemu_icount = 0
        self.qemu_icount_bias = 0
        self.vm_clock_warp_start = NO_WARP
        self.icount_time_shift = SHIFT_AT_START

    def create(self, machine: "Machine") -> None:
        self.clock = machine.clock

    def reset(self) -> None:
        # Virtual time goes on over a reset; only a load sets it.
        self.vm_clock_warp_start = NO_WARP
        self.icount_time_shift = SHIFT_AT_START

    def icount_needed(self) -> bool:
        """``icount_state_needed``."""
        return self.icount

    def warp_timer_needed(self) -> bool:
        """``warp_timer_state_needed``: only a warp under way travels."""
        return self.vm_clock_warp_start != NO_WARP

    def shift_needed(self) -> bool:
        """``icount_shift_state_needed``: only a shift that was adapted."""
        return self.icount_time_shift != SHIFT_AT_START

    def check_shift(self) -> Fault | None:
        """The loaded shift is one."""
        return shift_fault(self)

    def post_load_shift(self, version_id: int) -> int | None:
        """``icount_shift`` subsection: refuse what is no shift."""
        del version_id
        fault = self.check_shift()
        if fault is not None:
            raise fault.error()
        return 0

    def derive(self, version_id: int) -> None:
        if not self.icount:
            # A source that counts instructions says so; we cannot go on with it.
            self.qemu_icount = self.qemu_icount_bias = 0
            self.reset()
        if version_id < 2:
            # A stream of version 1 has no clock: ours keeps its time.
            self.pre_save()
            return
        self.clock.now_ns = self.cpu_clock_offset

    def pre_save(self) -> int | None:
        self.cpu_clock_offset = wrap_int64(self.clock.now_ns)
        return 0

    def step(self) -> None:
        # A clock that was loaded close to its end wraps, as int64_t does.
        self.clock.now_ns = self.cpu_clock_offset = wrap_int64(self.clock.now_ns)
        self.cpu_ticks_offset = wrap_int64(self.cpu_ticks_offset + TICKS_PER_STEP)
        if self.icount:
            self.qemu_icount = wrap_int64(self.qemu_icount + 1)
            # The shift adapts and the warp comes and goes, so that streams
            # with and without each subsection exist.
            self.icount_time_shift = (self.qemu_icount >> 4) % (ICOUNT_SHIFT_MAX + 1)
            self.qemu_icount_bias = wrap_int64(self.clock.now_ns - self.qemu_icount)
            warping = self.qemu_icount & 4
            self.vm_clock_warp_start = self.clock.now_ns & INT64_MAX if warping else NO_WARP
