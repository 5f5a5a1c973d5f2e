"""Whether a transport keeps what :class:`loadfuzz.transports.transport.Transport` promises::

    def test_my_transport_keeps_its_promises() -> None:
        check_transport(my_pair)

Each promise is a function of its own with two connected ends.  All of them run in virtual
time: what waits for ever is noticed at once, and a wait that should not be costs nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from errno import EBADF, ECONNRESET, EPIPE
from typing import Final, TypeAlias

from loadfuzz.errors import LoadfuzzError
from loadfuzz.transports.transport import IN_FLIGHT_BYTES_MAX, Transport
from loadfuzz.virtual_loop import StuckError, run_virtual

OpenPair: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Transport, Transport]]]
"""Opens a connected pair for the duration of an ``async with`` block."""
Check: TypeAlias = Callable[[Transport, Transport], Awaitable[None]]

PATIENCE_S: Final = 10.0
"""Virtual seconds for what must happen without anybody doing anything."""
TURNS_MAX: Final = 6
"""Turns of the loop that a cancellation may come behind the bytes that end the wait."""
LONG_BYTES: Final = 3 * IN_FLIGHT_BYTES_MAX + 77
"""More than can be under way at once, and no round number."""
GROUP_DEPTH_MAX: Final = 8
"""Exception groups within each other; our checks have one."""
PIECE_BYTES: Final = 1 << 14
BLOCK_BYTES: Final = 4_099
"""Bytes after which a pattern begins anew: a prime number, unlike any buffer's size."""
WRITES_MAX: Final = 2 * IN_FLIGHT_BYTES_MAX // PIECE_BYTES
"""Writes after which a peer that is gone must have been noticed."""


def check_transport(open_pair: OpenPair) -> None:
    """Check every promise, on a fresh pair each.

    Args:
        open_pair: opens two ends of one connection.

    Raises:
        AssertionError: one is not kept; the text names it and says what happened.
    """
    for name, check in CHECKS.items():
        try:
            run_virtual(_checked(open_pair, check))
        except LoadfuzzError:
            raise  # it is not about the transport
        except Exception as error:
            raise AssertionError(f"{name}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    for _ in range(GROUP_DEPTH_MAX):
        if not isinstance(error, BaseExceptionGroup):
            break
        error = error.exceptions[0]
    match error:
        case AssertionError():
            return str(error)
        case StuckError():
            return f"somebody waits for ever ({error})"
        case _:
            return f"{type(error).__name__} came out: {error}"


async def _checked(open_pair: OpenPair, check: Check) -> None:
    async with open_pair() as (one, other):
        await check(one, other)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    _require(not left, f"{len(left)} tasks were left behind")


# -- the promises ------------------------------------------------------------------------------


async def order(one: Transport, other: Transport) -> None:
    """Bytes arrive in order, each once, in both directions at the same time."""
    there, back = _pattern(LONG_BYTES, 7), _pattern(LONG_BYTES, 11)
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_all(one, there))
        group.create_task(_write_all(other, back))
        arrived = group.create_task(_read_all(other, 3_000))
        came_back = group.create_task(_read_all(one, 100_000))
    _require_same(there, arrived.result())
    _require_same(back, came_back.result())


async def partial_reads(one: Transport, other: Transport) -> None:
    """A read gives what is there, and not more than it was asked for."""
    await one.write(b"abcdef")
    async with _patience("a read of more than there is waits for the rest"):
        got = await other.read(4)
        _require(0 < len(got) <= 4, f"a read of 4 gave {len(got)} bytes")
        while len(got) < 6:
            piece = await other.read(100)
            _require(piece, "the end came while the peer was still there")
            got += piece
    _require(got == b"abcdef", f"{got!r} arrived in place of b'abcdef'")
    for size in (0, -1):
        try:
            await other.read(size)
        except ValueError:
            continue
        raise AssertionError(f"a read of {size} raised no ValueError")


async def end_behind_the_data(one: Transport, other: Transport) -> None:
    """What was written before a close is read, then the end, again and again."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(other.read(1))
        await _turns(2)
        await one.write(b"last words")
        one.close()
    got = waiting.result() + await _read_all(other, 3)
    _require(got == b"last words", f"{got!r} arrived in place of b'last words'")
    for _ in range(3):
        _require(await other.read(1) == b"", "bytes came behind the end")


async def half_close(one: Transport, other: Transport) -> None:
    """One direction can end alone."""
    await one.write(b"question")
    one.write_eof()
    one.write_eof()
    _require(await _read_all(other, 100) == b"question", "what was written before was lost")
    await _refused("a write behind write_eof", one.write(b"more"), {EPIPE})
    await other.write(b"answer")
    other.close()
    answer = await _read_all(one, 100)
    _require(answer == b"answer", f"the other direction gave {answer!r}")


async def closed_end(one: Transport, other: Transport) -> None:
    """A closed end does nothing any more, and who waited in it is told."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_refused("a read while closing", one.read(1), {EBADF}))
        await _turns(2)
        one.close()
        async with _patience("a read goes on waiting in an end that was closed"):
            await waiting
    await _refused("a read of a closed end", one.read(1), {EBADF})
    await _refused("a write to a closed end", one.write(b"x"), {EBADF})
    one.close()
    one.write_eof()
    one.abort()
    _require(await other.read(1) == b"", "the peer of a closed end read something")
    await _noticed(other)


async def abort_is_a_reset(one: Transport, other: Transport) -> None:
    """An abort is heard by the peer: where it reads, and where it writes."""
    await other.write(b"never read")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_refused("a read", other.read(1), {ECONNRESET}))
        await _turns(2)
        one.abort()
        async with _patience("a read goes on waiting although the peer aborted"):
            await waiting
    one.abort()
    await _refused("a second read", other.read(1), {ECONNRESET})
    await _noticed(other)
    await _refused("a read of an aborted end", one.read(1), {EBADF})
    await _refused("a write to an aborted end", one.write(b"x"), {EBADF})


async def abort_frees_a_writer(one: Transport, other: Transport) -> None:
    """Who waits for room is told when there will be none, by an abort or a close."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            _refused("a write", one.write(bytes(LONG_BYTES)), {ECONNRESET, EPIPE})
        )
        await _turns(2)
        other.abort()
        async with _patience("a write goes on waiting although the peer aborted"):
            await waiting


async def close_frees_a_writer(one: Transport, other: Transport) -> None:
    """The same by a close."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            _refused("a write", one.write(bytes(LONG_BYTES)), {ECONNRESET, EPIPE})
        )
        await _turns(2)
        other.close()
        async with _patience("a write goes on waiting although the peer closed"):
            await waiting


async def cancelled_read(one: Transport, other: Transport) -> None:
    """A read that is cancelled loses no byte, whenever that comes."""
    sent = got = b""
    for turns in range(TURNS_MAX):
        for early in (False, True):
            piece = b"%d%d;" % (turns, early)
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(other.read(100))
                await _turns(2)
                if early:
                    reading.cancel()
                await one.write(piece)
                await _turns(turns)
                reading.cancel()
            sent += piece
            if not reading.cancelled():
                got += reading.result()
            async with _patience(f"of {sent!r} only {got!r} arrived around cancelled reads"):
                while len(got) < len(sent):
                    more = await other.read(100)
                    _require(more, "the end came while the peer was still there")
                    got += more
    _require(got == sent, f"around cancelled reads {got!r} arrived in place of {sent!r}")


async def cancelled_write(one: Transport, other: Transport) -> None:
    """Of a write that is cancelled a beginning arrives, and what follows comes behind it."""
    data = _pattern(LONG_BYTES, 13)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(one.write(data))
        await _turns(3)
        writing.cancel()
    _require(writing.cancelled(), f"a write of {LONG_BYTES} bytes was done although nobody read")
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_all(one, b"behind"))
        got = await _read_all(other, 100_000)
    begun = got.removesuffix(b"behind")
    _require(got.endswith(b"behind"), "what was written after a cancelled write did not arrive")
    _require(data.startswith(begun), "a cancelled write left something else than its beginning")


async def back_pressure(one: Transport, other: Transport) -> None:
    """A writer waits while nobody reads, and goes on when somebody does."""
    data = _pattern(LONG_BYTES, 5)
    accepted = 0

    async def write() -> None:
        nonlocal accepted
        for at in range(0, len(data), PIECE_BYTES):
            await one.write(data[at : at + PIECE_BYTES])
            accepted += PIECE_BYTES
        one.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        await asyncio.sleep(PATIENCE_S)
        _require(
            accepted <= IN_FLIGHT_BYTES_MAX,
            f"{accepted} bytes were accepted while nobody read; {IN_FLIGHT_BYTES_MAX} are allowed",
        )
        got = await _read_all(other, 100_000)
    _require_same(data, got)


async def one_at_a_time(one: Transport, other: Transport) -> None:
    """Of two tasks that read, or that write, the second is refused; the first goes on."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(other.read(1))
        await _turns(2)
        try:
            async with _patience("a second read waits along with the first"):
                await other.read(1)
        except RuntimeError:
            pass
        else:
            raise AssertionError("a second read at the same time raised no RuntimeError")
        await one.write(b"x")
    _require(reading.result() == b"x", "the first read did not get its byte")
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(one.write(bytes(LONG_BYTES)))
        await _turns(3)
        try:
            async with _patience("a second write waits along with the first"):
                await one.write(b"x")
        except RuntimeError:
            pass
        else:
            raise AssertionError("a second write at the same time raised no RuntimeError")
        writing.cancel()


CHECKS: Final = {
    "order": order,
    "partial reads": partial_reads,
    "the end behind the data": end_behind_the_data,
    "half close": half_close,
    "a closed end": closed_end,
    "an abort is a reset": abort_is_a_reset,
    "an abort frees a writer": abort_frees_a_writer,
    "a close frees a writer": close_frees_a_writer,
    "a cancelled read": cancelled_read,
    "a cancelled write": cancelled_write,
    "back-pressure": back_pressure,
    "one at a time": one_at_a_time,
}
"""Every promise by name, in the order in which they are checked."""


# -- means ---------------------------------------------------------------------------------------


def _require(kept: object, text: str) -> None:
    if not kept:
        raise AssertionError(text)


@asynccontextmanager
async def _patience(text: str) -> AsyncIterator[None]:
    """What must not wait; ``text`` says what is wrong where it does."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise AssertionError(text) from None


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _refused(what: str, attempt: Awaitable[object], errnos: set[int]) -> None:
    try:
        async with _patience(f"{what} waits for ever"):
            result = await attempt
    except OSError as error:
        _require(error.errno in errnos, f"{what} raised {error!r}")
        return
    raise AssertionError(f"{what} came to {result!r}, and raised no OSError")


async def _noticed(end: Transport) -> None:
    """Writing to a peer that is gone fails, at once or a little later."""
    for _ in range(WRITES_MAX):
        try:
            async with _patience("a write to a peer that is gone waits for ever"):
                await end.write(bytes(PIECE_BYTES))
        except OSError as error:
            _require(error.errno in {EPIPE, ECONNRESET}, f"a write to nobody raised {error!r}")
            return
    raise AssertionError("bytes are accepted for a peer that is gone")


async def _write_all(end: Transport, data: bytes) -> None:
    sizes, at = (1, 10_000, 77, 200_000), 0
    for turn in range(len(data) + 1):
        if at >= len(data):
            break
        size = sizes[turn % len(sizes)]
        await end.write(memoryview(data)[at : at + size])
        at += size
    end.write_eof()


async def _read_all(end: Transport, size: int) -> bytes:
    got = bytearray()
    while len(got) <= LONG_BYTES:
        piece = await end.read(size)
        if not piece:
            break
        _require(len(piece) <= size, f"a read of {size} gave {len(piece)} bytes")
        got += piece
    return bytes(got)


def _pattern(size: int, step: int) -> bytes:
    """Bytes among which a piece that is missing, or comes elsewhere, is seen."""
    block = bytes((at * step + (at >> 8)) & 0xFF for at in range(BLOCK_BYTES))
    return (block * (size // BLOCK_BYTES + 1))[:size]


def _require_same(sent: bytes, got: bytes) -> None:
    if got == sent:
        return
    at = next(
        (at for at, (one, other) in enumerate(zip(sent, got, strict=False)) if one != other),
        min(len(sent), len(got)),
    )
    raise AssertionError(
        f"{len(sent)} bytes were sent and {len(got)} arrived; they differ from byte {at} on"
    )
