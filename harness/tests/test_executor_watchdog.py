"""The watchdog on its own: what it interrupts, and what it leaves alone."""

import signal
import threading
import time
from types import FunctionType

import pytest

from loadfuzz.executors.watchdog import HangError, Watchdog


def burn(seconds: float) -> int:
    """Use so much CPU time of this process."""
    count = 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        count += 1
    return count


def test_guarded_code_is_interrupted_after_its_limit() -> None:
    with Watchdog(0.04) as watchdog:
        watchdog.serial += 1
        watchdog.armed = True
        with pytest.raises(HangError):
            burn(20)
        watchdog.armed = False


def test_code_that_is_not_guarded_may_take_its_time() -> None:
    with Watchdog(0.02) as watchdog:
        watchdog.serial += 1
        assert burn(0.1)


def test_many_short_loads_are_not_one_long_one() -> None:
    with Watchdog(0.02) as watchdog:
        for _ in range(100):
            watchdog.serial += 1
            watchdog.armed = True
            burn(0.002)
            watchdog.armed = False


def test_ticks_that_come_at_once_are_not_cpu_time() -> None:
    with Watchdog(1.0) as watchdog:
        watchdog.serial += 1
        watchdog.armed = True
        for _ in range(100):
            signal.raise_signal(signal.SIGVTALRM)
        watchdog.armed = False


def test_more_time_can_be_allowed() -> None:
    with Watchdog(0.02) as watchdog:
        watchdog.allow(1000)
        watchdog.serial += 1
        watchdog.armed = True
        burn(0.2)
        watchdog.allow(1)
        with pytest.raises(HangError):
            burn(20)
        watchdog.armed = False


def test_the_frames_end_in_the_function_that_loops() -> None:
    def loops() -> None:
        while True:
            burn(0.0001)

    with Watchdog(0.04) as watchdog:
        watchdog.serial += 1
        watchdog.armed = True
        with pytest.raises(HangError) as caught:
            loops()
        watchdog.armed = False
    name = caught.value.frames[-1].split(":")[1]
    assert name.endswith("<locals>.loops")


def test_what_ran_before_the_loop_is_not_taken_for_it() -> None:
    def prepare() -> None:
        signal.raise_signal(signal.SIGVTALRM)

    def go_round() -> None:
        while True:
            pass

    def load() -> None:
        prepare()
        go_round()

    with Watchdog(0.04) as watchdog:
        watchdog.serial += 1
        watchdog.armed = True
        with pytest.raises(HangError) as caught:
            load()
        watchdog.armed = False
    assert caught.value.frames[-1].split(":")[1].endswith("go_round")


def test_coverage_is_not_interrupted_while_it_may_hold_its_lock() -> None:
    as_coverage = FunctionType(burn.__code__, {"__name__": "coverage.collector", "time": time})
    lock_held = True
    with Watchdog(0.02) as watchdog:
        watchdog.serial += 1
        watchdog.armed = True
        with pytest.raises(HangError):
            as_coverage(0.3)
            lock_held = False
            burn(20)
        watchdog.armed = False
    assert not lock_held


def test_everything_is_given_back() -> None:
    def mine(number: int, frame: object) -> None:
        pass

    before = signal.signal(signal.SIGVTALRM, mine)
    try:
        with Watchdog(1.0):
            assert signal.getsignal(signal.SIGVTALRM) is not mine
        assert signal.getsignal(signal.SIGVTALRM) is mine
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_in_another_thread_it_does_nothing() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Watchdog(1.0):
                assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures
