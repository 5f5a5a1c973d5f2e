"""Transports: four keep every promise, each check hears a transport that breaks one, and one
wrapper makes any of them fail by plan."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from errno import EBADF, ECONNRESET, EIO, EPIPE, ETIMEDOUT
from typing import TypeAlias

import pytest
from greenlet import greenlet

from loadfuzz.bridge import drive, wait
from loadfuzz.cancelling import CancelledAt
from loadfuzz.clock import LoopClock
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.testing import StuckError, check_transport, run_virtual
from loadfuzz.testing.transports import CHECKS, OpenPair
from loadfuzz.transports.faulty import FaultyTransport
from loadfuzz.transports.greenlets import TransportSource, load_from, save_to
from loadfuzz.transports.memory import MemoryTransport, memory_pair
from loadfuzz.transports.pipe import pipe_pair
from loadfuzz.transports.tcp import tcp_pair
from loadfuzz.transports.transport import IN_FLIGHT_BYTES_MAX, Transport
from loadfuzz.transports.unix import unix_pair
from savevm.board import machine_of
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import QEMUFileWriter
from savevm.qemufile.sources import Buffer
from savevm.save import qemu_savevm_state, save_to_bytes

PAIRS: dict[str, OpenPair] = {
    "memory": memory_pair, "pipe": pipe_pair, "unix": unix_pair, "tcp": tcp_pair,
}  # fmt: skip
STEPS = 100
PIECE = 97
"""Bytes that a slow peer sends at a time."""


def plan(*texts: str, deadline_ms: int = 5_000) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)), deadline_ms)


# -- what all promise ----------------------------------------------------------------------


@pytest.mark.parametrize("open_pair", PAIRS.values(), ids=PAIRS)
def test_every_transport_keeps_its_promises(open_pair: OpenPair) -> None:
    check_transport(open_pair)


@asynccontextmanager
async def behind_no_faults() -> AsyncIterator[tuple[Transport, Transport]]:
    async with memory_pair() as (one, other):
        yield (
            FaultyTransport(one, FaultPlan(), LoopClock()),
            FaultyTransport(other, FaultPlan(), LoopClock()),
        )


def test_behind_an_injector_with_nothing_to_do_a_transport_keeps_its_promises() -> None:
    check_transport(behind_no_faults)


def test_a_connection_with_room_for_one_byte_keeps_its_promises_too() -> None:
    async def main() -> bytes:
        async with memory_pair(1) as (one, other), asyncio.TaskGroup() as group:
            group.create_task(one.write(b"through the eye of a needle"))
            got = b""
            while len(got) < 27:
                got += await other.read(100)
        return got

    assert run_virtual(main()) == b"through the eye of a needle"


# -- each check hears what it is for ---------------------------------------------------------


class Scrambling(MemoryTransport):
    async def write(self, data: Buffer) -> None:
        await super().write(bytes(data)[::-1] if len(data) == 77 else data)


class Greedy(MemoryTransport):
    async def read(self, size: int) -> bytes:
        got = b""
        while len(got) < size and (piece := await super().read(size - len(got))):
            got += piece
        return got


class Forgetting(MemoryTransport):
    def close(self) -> None:
        self._outgoing.data.clear()
        super().close()


class Deaf(MemoryTransport):
    """Takes what is written behind its end of writing, and drops it."""

    async def write(self, data: Buffer) -> None:
        if not self._outgoing.ended:
            await super().write(data)


class Silent(MemoryTransport):
    """Its close tells nobody who waits in it."""

    def close(self) -> None:
        self._closed = True
        self.write_eof()


class Mild(MemoryTransport):
    """Its abort is a close."""

    def abort(self) -> None:
        self.close()


class HalfAborting(MemoryTransport):
    """Its abort wakes the peer's reader, and not its writer."""

    def abort(self) -> None:
        waiting, self._incoming.writer = self._incoming.writer, None
        super().abort()
        self._incoming.writer = waiting


class HalfClosing(MemoryTransport):
    """The same of its close."""

    def close(self) -> None:
        waiting, self._incoming.writer = self._incoming.writer, None
        super().close()
        self._incoming.writer = waiting


class Losing(MemoryTransport):
    """Takes the bytes a turn before it returns them."""

    async def read(self, size: int) -> bytes:
        data = await super().read(size)
        await asyncio.sleep(0)
        return data


class Babbling(MemoryTransport):
    """Speaks of a write that was cancelled."""

    async def write(self, data: Buffer) -> None:
        try:
            await super().write(data)
        except asyncio.CancelledError:
            self._outgoing.data += b"where was I?"
            raise


class Wide(MemoryTransport):
    """Takes twice what it may."""

    async def write(self, data: Buffer) -> None:
        self._outgoing.capacity = 2 * IN_FLIGHT_BYTES_MAX
        await super().write(data)


class Queueing(MemoryTransport):
    """Lets a second reader wait for the first."""

    async def read(self, size: int) -> bytes:
        while self._reading._taken:  # noqa: ASYNC110 - a bad one is what is wanted
            await asyncio.sleep(0.001)
        return await super().read(size)


BROKEN: dict[str, type[MemoryTransport]] = {
    "order": Scrambling,
    "partial reads": Greedy,
    "the end behind the data": Forgetting,
    "half close": Deaf,
    "a closed end": Silent,
    "an abort is a reset": Mild,
    "an abort frees a writer": HalfAborting,
    "a close frees a writer": HalfClosing,
    "a cancelled read": Losing,
    "a cancelled write": Babbling,
    "back-pressure": Wide,
    "one at a time": Queueing,
}


def pair_of(kind: type[MemoryTransport]) -> OpenPair:
    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Transport, Transport]]:
        async with memory_pair() as (one, other):
            ways = one._incoming, one._outgoing
            yield kind(*ways), kind(*reversed(ways))
            del other

    return opened


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_transport_is_caught_by_the_check_of_what_it_breaks(name: str) -> None:
    with pytest.raises(AssertionError, match=f"^{name}: ") as caught:
        check_transport(pair_of(BROKEN[name]))
    print(caught.value)


def test_every_check_has_a_broken_transport() -> None:
    assert list(BROKEN) == list(CHECKS)


# -- faults ----------------------------------------------------------------------------------

Story: TypeAlias = tuple[object, float]
DATA = bytes(range(64))


async def read_out(end: Transport, size: int = 16) -> list[Story]:
    """Everything that comes of reading to the end, each with its time."""
    clock = LoopClock()
    story: list[Story] = []
    for _ in range(STEPS):
        try:
            got = await end.read(size)
        except OSError as error:
            story.append((error.errno, clock.now_s()))
            return story
        story.append((got, clock.now_s()))
        if not got:
            return story
    raise AssertionError("no end")


def told(open_pair: OpenPair, faults: FaultPlan) -> tuple[list[Story], list[str]]:
    """What a reader behind the plan gets of :data:`DATA`, and what struck."""

    async def main() -> tuple[list[Story], list[str]]:
        async with open_pair() as (one, other):
            end = FaultyTransport(other, faults, LoopClock())
            await one.write(DATA)
            one.write_eof()
            story = await read_out(end)
            return story, list(map(str, end.struck))

    return run_virtual(main())


def joined(story: list[Story]) -> bytes:
    return b"".join(got for got, _ in story if isinstance(got, bytes))


@pytest.mark.parametrize("open_pair", PAIRS.values(), ids=PAIRS)
def test_a_plan_means_the_same_on_every_transport(open_pair: OpenPair) -> None:
    story, struck = told(
        open_pair, plan("short-read@byte:3=1", "stall@byte:20=250", "reset@byte:40")
    )
    assert joined(story) == DATA[:40]
    assert (DATA[3:4], 0.0) in story
    assert [moment for got, moment in story if got == ECONNRESET] == [0.25]
    assert struck == ["short-read@byte:3=1", "stall@byte:20=250", "reset@byte:40"]


@pytest.mark.parametrize(
    ("text", "arrives", "ends"),
    [
        ("eio@byte:10", DATA[:10], EIO),
        ("reset@read:0", b"", ECONNRESET),
        ("close@byte:33", DATA[:33], b""),
        ("half-close@byte:33", DATA[:33], b""),
        ("duplicate@byte:8=8", DATA[:16] + DATA[8:], b""),
        ("reorder@byte:0=16", DATA[16:32] + DATA[:16] + DATA[32:], b""),
        ("zero-tail@byte:60", DATA[:60] + bytes(4), b""),
        ("bit-flip@byte:1=7", b"\0\x81" + DATA[2:], b""),
        ("eagain@byte:5=3", DATA, b""),
        ("stall@byte:5=5001", DATA[:5], ETIMEDOUT),
        ("slow@byte:0=16", DATA, b""),
    ],
)
def test_every_kind_of_fault_is_carried_out(text: str, arrives: bytes, ends: object) -> None:
    story, struck = told(memory_pair, plan(text))
    assert joined(story) == arrives
    assert story[-1][0] == ends
    assert struck


def test_a_slow_connection_takes_the_time_that_its_bytes_take() -> None:
    story, _ = told(memory_pair, plan("slow@byte:0=16"))
    assert story[-1][1] == pytest.approx(4)


def test_without_a_clock_of_its_own_a_silence_lasts_by_the_one_that_is_given() -> None:
    class Counting(LoopClock):
        slept: list[float] = []  # noqa: RUF012 - of one test

        async def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)
            await super().sleep(seconds)

    async def main() -> None:
        async with memory_pair() as (one, other):
            await one.write(b"x")
            end = FaultyTransport(other, plan("stall@byte:0=70", "eagain@byte:0=2"), Counting())
            assert await end.read(1) == b"x"

    run_virtual(main())
    assert sorted(Counting.slept) == [0, 0, pytest.approx(0.07)]


def test_a_read_that_is_cancelled_in_a_silence_leaves_the_rest_of_it_to_the_next() -> None:
    async def main() -> list[Story]:
        async with memory_pair() as (one, other):
            end = FaultyTransport(other, plan("stall@byte:4=1000"), LoopClock())
            await one.write(DATA)
            one.write_eof()
            assert await end.read(4) == DATA[:4]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.25):
                    await end.read(4)
            return await read_out(end, 64)

    assert run_virtual(main()) == [(DATA[4:], 1.0), (b"", 1.0)]


def after(faults: FaultPlan, act: Callable[[Transport, Transport], object]) -> object:
    """What ``act`` comes to with a faulty end that has met its plan, and its peer: an errno, or
    what was returned."""

    async def main() -> object:
        async with memory_pair() as (one, other):
            end = FaultyTransport(other, faults, LoopClock())
            await one.write(DATA)
            await read_out(end)
            attempt = act(end, one)
            try:
                return await attempt  # type: ignore[misc]
            except OSError as error:
                return error.errno

    return run_virtual(main())


@pytest.mark.parametrize(
    ("text", "own_write", "peers_write", "peers_read"),
    [
        ("reset@byte:8", ECONNRESET, ECONNRESET, ECONNRESET),
        ("close@byte:8", EPIPE, ECONNRESET, ECONNRESET),
        ("half-close@byte:8", None, None, b"answer"),
        ("eio@byte:8", None, None, b"answer"),
    ],
)
def test_what_ends_a_connection_ends_it_for_both_ends(
    text: str, own_write: object, peers_write: object, peers_read: object
) -> None:
    async def answer(end: Transport, peer: Transport) -> bytes:
        with suppress(OSError):
            await end.write(b"answer")
        return await peer.read(10)

    assert after(plan(text), lambda end, peer: end.write(b"x")) == own_write
    assert after(plan(text), lambda end, peer: peer.write(b"x")) == peers_write
    assert after(plan(text), answer) == peers_read


def test_a_fault_at_a_write_strikes_that_write_and_all_behind_it() -> None:
    async def main(text: str) -> tuple[list[object], bytes, list[str]]:
        results: list[object] = []
        async with memory_pair() as (one, other):
            end = FaultyTransport(one, plan(text), LoopClock())
            for _ in range(4):
                try:
                    await end.write(b"ab")
                except OSError as error:
                    results.append(error.errno)
                else:
                    results.append("sent")
            one.close()
            try:
                got = await other.read(10)
            except ConnectionResetError:
                got = b"reset"
            return results, got, list(map(str, end.struck))

    assert run_virtual(main("eio@write:2")) == (
        ["sent", "sent", EIO, EIO], b"abab", ["eio@write:2"],
    )  # fmt: skip
    assert run_virtual(main("reset@write:1")) == (
        ["sent", ECONNRESET, ECONNRESET, ECONNRESET], b"reset", ["reset@write:1"],
    )  # fmt: skip
    assert run_virtual(main("reset@write:9"))[0] == ["sent"] * 4


def test_who_reads_when_a_write_resets_the_connection_hears_of_the_reset() -> None:
    async def main() -> object:
        async with memory_pair() as (one, _):
            end = FaultyTransport(one, plan("reset@write:0"), LoopClock())
            async with asyncio.TaskGroup() as group:
                story = group.create_task(read_out(end))
                await asyncio.sleep(0)
                with pytest.raises(ConnectionResetError):
                    await end.write(b"x")
            return story.result()[-1][0], (await read_out(end))[-1][0]

    assert run_virtual(main()) == (ECONNRESET, ECONNRESET)


def test_what_had_arrived_before_a_write_reset_the_connection_is_lost() -> None:
    async def main() -> None:
        async with memory_pair() as (one, other):
            # Of 24 bytes, that 16 have become, 8 are still there.
            end = FaultyTransport(one, plan("duplicate@byte:0=8", "reset@write:0"), LoopClock())
            await other.write(DATA)
            assert await end.read(16) == DATA[:8] * 2
            with pytest.raises(ConnectionResetError):
                await end.write(b"x")
            with pytest.raises(ConnectionResetError):
                await end.read(16)

    run_virtual(main())


def test_faults_whose_place_nobody_comes_to_have_not_struck() -> None:
    async def main() -> int:
        async with memory_pair() as (one, other):
            end = FaultyTransport(other, plan("eio@byte:10", "bit-flip@byte:20=1"), LoopClock())
            await one.write(DATA)
            assert await end.read(10) == DATA[:10]
            return len(end.struck)

    assert run_virtual(main()) == 0


def test_a_closed_faulty_end_says_so_and_not_what_would_have_failed() -> None:
    async def main() -> None:
        async with memory_pair() as (_, other):
            end = FaultyTransport(other, plan("eio@byte:0", "reset@write:0"), LoopClock())
            end.close()
            for attempt in (end.read(1), end.write(b"x")):
                with pytest.raises(OSError) as caught:
                    await attempt
                assert caught.value.errno == EBADF

    run_virtual(main())


# -- a plain loader on an asyncio transport ----------------------------------------------------


def saved(kind: str) -> tuple[bytes, str]:
    """A stream, and the digest of what it makes of a fresh machine."""
    source = machine_of(kind)
    source.step(300)
    stream = save_to_bytes(source)
    loaded = machine_of(kind)
    load_from_bytes(loaded, stream)
    return stream, loaded.digest()


async def send(end: Transport, stream: bytes, piece: int = PIECE) -> None:
    with suppress(OSError):  # the loader may go
        for at in range(0, len(stream), piece):
            await end.write(stream[at : at + piece])
            # The reader has to wait for each.
            await asyncio.sleep(0)
        end.write_eof()


async def load(machine: Machine, end: Transport) -> None:
    await load_from(end, lambda source: load_from_bytes(machine, source))


def active_greenlets() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if isinstance(thing, greenlet) and bool(thing))


@pytest.mark.parametrize("piece", [1 << 20, PIECE])
@pytest.mark.parametrize("open_pair", PAIRS.values(), ids=PAIRS)
def test_the_plain_loader_runs_on_every_transport(open_pair: OpenPair, piece: int) -> None:
    stream, digest = saved("small")
    machine = machine_of("small")

    async def main() -> None:
        async with open_pair() as (one, other), asyncio.TaskGroup() as group:
            group.create_task(send(one, stream, piece))
            group.create_task(load(machine, other))

    run_virtual(main())
    assert machine.digest() == digest


def test_the_plain_saver_writes_to_a_transport() -> None:
    stream, _ = saved("small")
    machine, again = machine_of("small"), machine_of("small")
    load_from_bytes(machine, stream)

    async def main() -> None:
        async with memory_pair(64) as (one, other), asyncio.TaskGroup() as group:
            group.create_task(load(again, other))

            def save(f: QEMUFileWriter) -> None:
                qemu_savevm_state(f, machine)
                f.close()

            await save_to(one, lambda sink: save(QEMUFileWriter(sink)))

    run_virtual(main())
    assert again.digest() == machine.digest()


def test_a_loader_that_meets_a_fault_refuses_and_rolls_back() -> None:
    stream, _ = saved("rtc")
    machine = machine_of("rtc")
    before = machine.digest()

    async def main(faults: FaultPlan) -> int:
        async with memory_pair() as (one, other), asyncio.TaskGroup() as group:
            group.create_task(send(one, stream))
            with pytest.raises(LoadError) as caught:
                await load(machine, FaultyTransport(other, faults, LoopClock()))
            return caught.value.errno

    for text, errno in (("reset@byte:400", ECONNRESET), ("stall@byte:1=9000", ETIMEDOUT)):
        assert run_virtual(main(plan(text))) == errno
        assert machine.digest() == before


def test_a_load_that_is_cancelled_anywhere_rolls_back_and_leaves_nothing_behind() -> None:
    stream, digest = saved("rtc")
    machine = machine_of("rtc")
    before = machine.digest()
    greenlets = active_greenlets()
    ends: list[str] = []

    async def main(suspension: int) -> str:
        async with memory_pair(64) as (one, other), asyncio.TaskGroup() as group:
            sending = group.create_task(send(one, stream))
            loading = group.create_task(
                CancelledAt(load(machine, other), lambda number: number == suspension)
            )
            await asyncio.wait([loading])
            other.close()
            await sending
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return "cancelled" if loading.cancelled() else "loaded"

    for suspension in range(len(stream)):
        ends.append(run_virtual(main(suspension)))
        if ends[-1] == "loaded":
            break
        assert machine.digest() == before, f"cancelled at suspension {suspension}"
    assert machine.digest() == digest
    assert ends.count("cancelled") == len(ends) - 1 >= len(stream) // PIECE
    assert active_greenlets() == greenlets


def test_a_loader_that_swallows_its_cancellation_goes_on_and_is_still_driven() -> None:
    def stubborn(source: TransportSource) -> bytes:
        try:
            source.read(1)
        except asyncio.CancelledError:
            return bytes(source.read(10))
        raise AssertionError("not cancelled")

    async def main() -> bytes:
        async with memory_pair() as (one, other), asyncio.TaskGroup() as group:
            loading = group.create_task(load_from(other, stubborn))
            await asyncio.sleep(1)
            loading.cancel()
            await asyncio.sleep(1)
            await one.write(b"late")
        return loading.result()

    assert run_virtual(main()) == b"late"


def test_a_loader_that_waits_for_ever_leaves_no_greenlet_behind() -> None:
    greenlets = active_greenlets()

    async def main() -> None:
        async with memory_pair() as (_, other):
            await load(machine_of("rtc"), other)

    with pytest.raises(StuckError, match="main"):
        run_virtual(main())
    assert active_greenlets() == greenlets


def test_to_wait_where_nobody_drives_is_a_mistake_that_is_told() -> None:
    async def nothing() -> None: ...

    coroutine = nothing()
    with pytest.raises(RuntimeError, match="outside of drive"):
        wait(coroutine)
    coroutine.close()
    assert run_virtual(drive(lambda: "driven")) == "driven"


# -- cancelling ------------------------------------------------------------------------------------


def test_a_task_is_cancelled_when_it_waits_for_the_nth_time() -> None:
    log: list[int] = []

    async def count() -> None:
        for number in range(10):
            log.append(number)
            await asyncio.sleep(number % 2)

    for wanted in (0, 3):
        log.clear()
        counted = CancelledAt(count(), lambda number, wanted=wanted: number == wanted)  # type: ignore[misc]
        with pytest.raises(asyncio.CancelledError):
            run_virtual(counted)
        assert log == list(range(wanted + 1))
        assert counted.suspensions == wanted + 1


def test_pairs_close_with_their_block() -> None:
    async def main(opened: AbstractAsyncContextManager[tuple[Transport, Transport]]) -> None:
        async with opened as (one, other):
            pass
        for end in (one, other):
            with pytest.raises(OSError) as caught:
                await end.read(1)
            assert caught.value.errno == EBADF

    for open_pair in PAIRS.values():
        run_virtual(main(open_pair()))
