"""Clocks without a wall: virtual time, timers on it, and how a timer travels.

Sources: QEMU ``timer_put``, ``timer_get`` and ``vmstate_info_timer`` of the
seed's savevm.c; ``util/qemu-timer.c`` for what a timer does.
"""

from collections.abc import Callable
from typing import Any, Final

from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.state import State
from savevm.vmstate.description import Opaque, VMSFlags, VMStateField, VMStateInfo

NOT_ARMED: Final = -1
_INT64_MAX: Final = (1 << 63) - 1
_UINT64_MAX: Final = (1 << 64) - 1


class VirtualClock(State):
    """``QEMU_CLOCK_VIRTUAL``: nanoseconds that pass only when the guest runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0


class QEMUTimer(State):
    """A timer on a clock.

    Attributes:
        expire_ns: when it fires, or :data:`NOT_ARMED`.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()
        self.expire_ns = NOT_ARMED
        # A callback is code, not state: State ignores what it cannot own.
        self.callback = callback

    def mod_ns(self, expire_ns: int) -> None:
        """Arm the timer (``timer_mod_ns``); a time below zero fires at once."""
        self.expire_ns = max(expire_ns, 0)

    def delete(self) -> None:
        """Disarm the timer (``timer_del``)."""
        self.expire_ns = NOT_ARMED

    def pending(self) -> bool:
        """Whether the timer is armed (``timer_pending``)."""
        return self.expire_ns != NOT_ARMED


class TimerList:
    """The timers of one clock (``QEMUTimerList``); the machine owns it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.timers: list[QEMUTimer] = []

    def new_ns(self, callback: Callable[[], None]) -> QEMUTimer:
        """A new disarmed timer (``timer_new_ns``)."""
        timer = QEMUTimer(callback)
        self.timers.append(timer)
        return timer

    def run_expired(self, limit: int = 1000) -> int:
        """Fire what is due, earliest first (``timerlist_run_timers``).

        Args:
            limit: callbacks per call; a timer that re-arms itself in the past
                must not hold the guest for ever.

        Returns:
            How many fired.
        """
        fired = 0
        while fired < limit:
            due = [t for t in self.timers if 0 <= t.expire_ns <= self.clock.now_ns]
            if not due:
                break
            timer = min(due, key=lambda t: t.expire_ns)
            timer.delete()
            timer.callback()
            fired += 1
        return fired


def timer_put(f: QEMUFileWriter, timer: QEMUTimer) -> None:
    """Write a timer: be64 expiry in ns, all ones when not armed."""
    f.put_be64(timer.expire_ns)


def timer_get(f: QEMUFileReader, timer: QEMUTimer) -> None:
    """Read a timer and arm or disarm it.

    Raises:
        LoadError: the expiry is not a time (strict).
    """
    offset = f.tell()
    expire = f.get_be64(Role.FIELD)
    if expire == _UINT64_MAX:
        timer.delete()
        return
    if expire > _INT64_MAX and not f.profile.timers_taken_unclamped:
        f.complain(
            LoadError(
                f"expected an expiry of at most {_INT64_MAX:#x} ns, read {expire:#x}",
                offset=offset,
                expected=_INT64_MAX,
                actual=expire,
            )
        )
        return
    # The seed's int64_t parameter makes such a value negative: due for ever.
    timer.mod_ns(expire - (1 << 64) if expire > _INT64_MAX else expire)


def _get_timer(
    f: QEMUFileReader, current: QEMUTimer, _size: int, _field: VMStateField, _op: Opaque
) -> QEMUTimer:
    timer_get(f, current)
    return current


def _put_timer(
    f: QEMUFileWriter, value: QEMUTimer, _size: int, _field: VMStateField, _op: Opaque
) -> None:
    timer_put(f, value)


TIMER: Final = VMStateInfo("timer", _get_timer, _put_timer, 8, "", 0, _INT64_MAX)


def timer_field(attr: str, version_id: int = 0, **more: Any) -> VMStateField:
    """``VMSTATE_TIMER_PTR``: a timer of the device."""
    return VMStateField(
        attr, attr, TIMER, VMSFlags.SINGLE | VMSFlags.POINTER, 8, version_id=version_id, **more
    )
