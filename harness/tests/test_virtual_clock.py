"""Virtual time: waiting costs nothing, the order is the same each time, a hang is told at once."""

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from loadfuzz.clock import AsyncClock, LoopClock
from loadfuzz.testing import StuckError, VirtualLoop, run_virtual
from loadfuzz.virtual_loop import LIMIT_S_MAX

HOUR_S = 3_600.0
REAL_S_MAX = 30.0
"""Far less than the virtual hours that go by; no more is said about real time."""


async def doze(clock: AsyncClock, name: str, seconds: float, log: list[tuple[str, float]]) -> None:
    for _ in range(3):
        await clock.sleep(seconds)
        log.append((name, clock.now_s()))


def test_an_hour_of_sleep_is_over_at_once_and_the_clock_shows_it() -> None:
    async def main() -> float:
        clock = LoopClock()
        begun = clock.now_s()
        await clock.sleep(HOUR_S)
        return clock.now_s() - begun

    begun = time.monotonic()
    assert run_virtual(main()) == HOUR_S
    assert time.monotonic() - begun < REAL_S_MAX


def test_sleepers_wake_in_the_order_of_their_times_and_the_same_each_time() -> None:
    async def main() -> list[tuple[str, float]]:
        log: list[tuple[str, float]] = []
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("slow", 7.0), ("quick", 2.0), ("middle", 5.0)):
                group.create_task(doze(LoopClock(), name, seconds, log))
        return log

    log = run_virtual(main())
    assert log == [
        ("quick", 2), ("quick", 4), ("middle", 5), ("quick", 6), ("slow", 7), ("middle", 10),
        ("slow", 14), ("middle", 15), ("slow", 21),
    ]  # fmt: skip
    assert run_virtual(main()) == log


def test_a_timeout_of_asyncio_goes_by_the_same_time() -> None:
    async def main() -> tuple[bool, float]:
        clock = LoopClock()
        try:
            async with asyncio.timeout(10):
                await clock.sleep(9)
                await clock.sleep(2)
        except TimeoutError:
            return True, clock.now_s()
        return False, clock.now_s()

    assert run_virtual(main()) == (True, 10)


def test_no_time_goes_by_while_anybody_has_something_to_do() -> None:
    async def main() -> float:
        clock = LoopClock()

        async def work() -> float:
            for _ in range(1_000):
                await clock.sleep(0)
            return clock.now_s()

        async with asyncio.TaskGroup() as group:
            sleeping = group.create_task(clock.sleep(1))
            working = group.create_task(work())
        assert sleeping.done()
        return working.result()

    assert run_virtual(main()) == 0


def test_moments_a_nanosecond_apart_are_told_apart_to_the_end_of_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(LIMIT_S_MAX - 1)
        for _ in range(100):
            await asyncio.sleep(1e-9)
        return loop.time()

    assert LIMIT_S_MAX - 1 < run_virtual(main(), limit_s=LIMIT_S_MAX) < LIMIT_S_MAX
    with pytest.raises(ValueError, match="at most"):
        VirtualLoop(limit_s=2 * LIMIT_S_MAX)


def test_what_nobody_will_wake_is_told_with_the_name_of_its_function() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_ever(), name="forgotten")

    with pytest.raises(StuckError) as caught:
        run_virtual(main())
    assert len(caught.value.waiting) == 2
    assert any("forgotten in " in task and "wait_for_ever" in task for task in caught.value.waiting)


def test_what_sleeps_again_and_again_comes_to_an_end() -> None:
    cleaned: list[str] = []

    async def main() -> None:
        try:
            while True:  # noqa: ASYNC110 - what is tested is a loop that nothing ends
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(5)
            cleaned.append("with a sleep")

    with pytest.raises(StuckError, match="not done after 60 virtual seconds"):
        run_virtual(main(), limit_s=60)
    assert cleaned == ["with a sleep"]


def test_another_alarm_may_be_asked_for() -> None:
    class Alarm(BaseException):
        pass

    loop = VirtualLoop(stuck=lambda loop, reason: Alarm(reason))
    waiting = loop.create_future()
    with pytest.raises(Alarm, match="nothing will wake one"):
        loop.run_until_complete(waiting)
    loop.close()


def test_time_stands_still_while_a_job_runs_in_a_thread() -> None:
    """The virtual timeout is over long before the job: virtual time must wait for real work."""
    go = threading.Event()

    def job() -> str:
        assert go.wait(REAL_S_MAX)
        return "done"

    async def main() -> tuple[str, float]:
        timer = threading.Timer(0.05, go.set)
        timer.start()
        try:
            async with asyncio.timeout(1):
                result = await asyncio.to_thread(job)
        finally:
            timer.join()
        return result, asyncio.get_running_loop().time()

    assert run_virtual(main()) == ("done", 0)


def test_a_thread_of_ones_own_is_waited_for_when_nothing_else_can_happen() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def call_back() -> None:
            loop.call_soon_threadsafe(answer.set_result, "from outside")

        timer = threading.Timer(0.05, call_back)
        timer.start()
        try:
            result: str = await answer
        finally:
            timer.join()
        return result

    assert run_virtual(main()) == "from outside"


def echo_of_a_socket(ends: tuple[socket.socket, socket.socket]) -> Callable[[], None]:
    def send() -> None:
        ends[1].send(b"x")

    return send


def test_a_watched_file_is_heard_before_time_goes_by() -> None:
    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        ends = socket.socketpair()
        with ends[0], ends[1]:
            ends[0].setblocking(False)
            loop.call_soon(echo_of_a_socket(ends))
            async with asyncio.timeout(1):
                data = await loop.sock_recv(ends[0], 1)
        return data, loop.time()

    assert run_virtual(main()) == (b"x", 0)


def test_a_loop_gives_back_its_files() -> None:
    gc.collect()  # what other tests have dropped
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run_virtual(asyncio.sleep(1))
    assert len(os.listdir("/proc/self/fd")) == before
