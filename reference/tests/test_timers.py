"""Virtual time, timers on it, and how a timer travels."""

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.timers import (
    NOT_ARMED,
    TIMER,
    QEMUTimer,
    TimerList,
    VirtualClock,
    timer_field,
    timer_get,
    timer_put,
)
from savevm.vmstate import VMStateDescription, vmstate_load_state, vmstate_save_state

INT64_MAX = (1 << 63) - 1
DESCRIPTION = VMStateDescription("d", fields=(timer_field("timer"),))


def timer(expire_ns: int = NOT_ARMED) -> QEMUTimer:
    made = QEMUTimer(lambda: None)
    made.expire_ns = expire_ns
    return made


def sent(expire_ns: int) -> bytes:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    timer_put(f, timer(expire_ns))
    f.flush()
    return bytes(sink.data)


def taken(data: bytes, profile: Profile = STRICT) -> QEMUTimer:
    made = timer(77)
    timer_get(QEMUFileReader(data, profile=profile), made)
    return made


@pytest.mark.parametrize(
    ("expire_ns", "wire"),
    [
        (NOT_ARMED, "ffffffffffffffff"),
        (0, "0000000000000000"),
        (12345, "0000000000003039"),
        (INT64_MAX, "7fffffffffffffff"),
    ],
)
def test_a_timer_travels_as_its_expiry_and_comes_back(expire_ns: int, wire: str) -> None:
    assert sent(expire_ns).hex() == wire
    arrived = taken(bytes.fromhex(wire))
    assert arrived.expire_ns == expire_ns
    assert arrived.pending() is (expire_ns != NOT_ARMED)


@pytest.mark.parametrize("wire", ["8000000000000000", "fffffffffffffffe"])
def test_an_expiry_beyond_63_bits_is_refused(wire: str) -> None:
    with pytest.raises(LoadError) as caught:
        taken(bytes.fromhex(wire))
    assert caught.value.offset == 0
    assert caught.value.actual == int(wire, 16)
    assert caught.value.expected == INT64_MAX


def test_an_expiry_that_is_only_complained_of_changes_nothing() -> None:
    class Noting(QEMUFileReader):
        def complain(self, error: LoadError) -> None:
            assert error.actual == 1 << 63

    made = timer(77)
    timer_get(Noting(b"\x80" + bytes(7)), made)
    assert made.expire_ns == 77


@pytest.mark.parametrize("wire", ["8000000000000000", "fffffffffffffffe"])
def test_the_seed_takes_such_an_expiry_as_due_at_once(wire: str) -> None:
    assert taken(bytes.fromhex(wire), SEED).expire_ns == 0


def test_timers_are_fields_like_others() -> None:
    state, target = State(timer=timer(5)), State(timer=timer())
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, DESCRIPTION, state, None)
    f.flush()
    held = vars(target)["timer"]
    vmstate_load_state(QEMUFileReader(bytes(sink.data)), DESCRIPTION, target, 1)
    assert vars(target)["timer"] is held
    assert held.expire_ns == 5
    assert TIMER.name == "timer"


def test_a_cut_off_timer_names_its_field() -> None:
    with pytest.raises(LoadError) as caught:
        vmstate_load_state(QEMUFileReader(b"\0" * 7), DESCRIPTION, State(timer=timer()), 1)
    assert str(caught.value) == "timer: needed 8 bytes for field, 7 available (offset 0x0)"


def test_due_timers_fire_earliest_first_and_are_then_disarmed() -> None:
    clock = VirtualClock()
    timers = TimerList(clock)
    fired: list[str] = []
    late = timers.new_ns(lambda: fired.append("late"))
    early = timers.new_ns(lambda: fired.append("early"))
    future = timers.new_ns(lambda: fired.append("future"))
    late.mod_ns(20)
    early.mod_ns(10)
    future.mod_ns(30)
    clock.now_ns = 25
    assert timers.run_expired() == 2
    assert fired == ["early", "late"]
    assert [t.pending() for t in (late, early, future)] == [False, False, True]
    future.delete()
    clock.now_ns = 99
    assert timers.run_expired() == 0


def test_a_time_below_zero_fires_at_once() -> None:
    made = timer()
    made.mod_ns(-5)
    assert made.expire_ns == 0


def test_a_timer_that_rearms_itself_in_the_past_does_not_hold_the_guest() -> None:
    timers = TimerList(VirtualClock())
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        held.mod_ns(0)

    held = timers.new_ns(again)
    held.mod_ns(0)
    assert timers.run_expired(limit=50) == 50
    assert count == 50
