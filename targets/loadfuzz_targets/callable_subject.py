"""A Python function as a loader: fed in pieces, and what leaves it translated."""

import asyncio
import inspect
import io
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from hashlib import blake2b
from typing import Final

from loadfuzz.executors.watchdog import HangError
from loadfuzz.inputs import Delivery
from loadfuzz_targets.callable_finding import Found, Function, Gives
from loadfuzz_targets.idle_loop import IdleSelector, frames_of_waiting, new_loop, place_of_hang
from savevm.errors import LoadError
from savevm.trace import Trace

GROUP_DEPTH_MAX: Final = 32
"""Exception groups within each other; a task group in a task group makes two."""
TASKS_MAX: Final = 10_000
"""Tasks that a load may leave behind; each is cancelled, and awaited."""
CANCEL_S: Final = 2.0
"""How long they may take to end."""
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
"""What ``repr`` says of an object's place in memory, which is another one each time."""


class CallableSubject:
    """The function as a live loader (:class:`loadfuzz.abc.Subject`).

    It has no state that we could see: what it accepted last stands for it.  That is what is
    saved, so that oracles which save and load again ask the function about a stream that it
    has accepted, and hear the truth.

    Args:
        found: the function.
        first: gives a stream for a loader that has accepted none yet.
    """

    def __init__(self, found: Found, first: Callable[[], bytes]) -> None:
        self._found = found
        self._first = first
        self._accepted: bytes | None = None
        self._digest = ""
        self._selector = IdleSelector()
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Call the function; see :meth:`loadfuzz.abc.Subject.load`.

        Raises:
            LoadError: it refuses the stream.
            HangError: it waits for what never comes.
            BaseException: whatever else leaves it.
        """
        __tracebackhide__ = True
        try:
            value = self._call(stream, delivery)
        except self._found.refusals as error:
            raise _refusal(error) from error
        except BaseExceptionGroup as group:
            leaf = _first_of(group, self._found.refusals)
            if isinstance(leaf, self._found.refusals):
                raise _refusal(leaf) from leaf
            raise leaf from group
        self._accepted = stream
        if self._found.returns_state:
            told = _ADDRESS.sub("", repr(value))
            self._digest = f"return={blake2b(told.encode(), digest_size=8).hexdigest()}"

    def _call(self, stream: bytes, delivery: Delivery) -> object:
        __tracebackhide__ = True
        pieces = list(_pieces(stream, delivery))
        function = self._found.function
        match self._found.gives:
            case Gives.BYTES:
                value = function(stream)
                return self._run(value) if inspect.isawaitable(value) else value
            case Gives.FILE:
                value = function(io.BufferedReader(_Pieces(pieces)))
                return self._run(value) if inspect.isawaitable(value) else value
            case Gives.READER:
                return self._run(self._fed(function, pieces))

    async def _fed(self, function: Function, pieces: list[bytes]) -> object:
        """Call the function with a reader, and give it a piece whenever it waits."""
        __tracebackhide__ = True
        reader = asyncio.StreamReader()
        pieces.reverse()

        def feed() -> None:
            # Called once a turn of the loop; by then what the piece before has woken has run.
            if pieces:
                reader.feed_data(pieces.pop())
                loop.call_soon(feed)
            else:
                reader.feed_eof()

        loop = asyncio.get_running_loop()
        loop.call_soon(feed)
        try:
            value = function(reader)
            return await value if inspect.isawaitable(value) else value
        finally:
            pieces.clear()

    def _run(self, awaitable: Awaitable[object]) -> object:
        __tracebackhide__ = True
        loop = self._loop
        if loop is None:
            loop = self._loop = new_loop(self._selector)
        main = awaitable if isinstance(awaitable, Coroutine) else _await(awaitable)
        self._selector.begin(loop)
        try:
            return loop.run_until_complete(main)
        except HangError as error:
            # Where a loop was interrupted, and whether it still works, is chance.
            hang = place_of_hang(error, frames_of_waiting(loop))
            self._loop = None
            raise hang from None
        finally:
            self._selector.end()
            if not _clear(loop) or self._loop is None:
                self._loop = None
                self._selector = IdleSelector()
                loop.close()

    def reset(self) -> None:
        """Forget what was accepted, and everything that waits."""
        self._accepted = None
        self._digest = ""

    def digest(self) -> str:
        """Of the return value, where that stands for the state; otherwise always the same."""
        return self._digest

    def save(self) -> bytes:
        """The stream that was accepted last."""
        return self._first() if self._accepted is None else self._accepted

    def check_invariants(self) -> list[str]:
        """Nothing is known to be impossible."""
        return []

    def step(self, count: int) -> None:
        """There is no guest."""

    def __del__(self) -> None:
        if self._loop is not None:
            self._loop.close()


class _Pieces(io.RawIOBase):
    """A file that has one piece at hand at a time."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces[::-1]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        if not self._pieces:
            return 0
        piece = self._pieces.pop()
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if size < len(piece):
            self._pieces.append(piece[size:])
        return size


def _pieces(stream: bytes, delivery: Delivery) -> Iterator[bytes]:
    if not any(delivery.chunks):
        if stream:
            yield stream
        return
    at = turn = 0
    while at < len(stream):
        size = delivery.chunks[turn % len(delivery.chunks)]
        turn += 1
        if size:
            yield stream[at : at + size]
        at += size


def _refusal(error: BaseException) -> LoadError:
    if isinstance(error, LoadError):
        return error
    return LoadError(_ADDRESS.sub("0x…", str(error)) or type(error).__name__)


def _first_of(group: BaseException, refusals: tuple[type[BaseException], ...]) -> BaseException:
    """What an exception group is about: a hang, or else the first in it that is no refusal,
    or else the first."""
    leaves = list(_leaves(group, GROUP_DEPTH_MAX))
    for leaf in leaves:
        if isinstance(leaf, HangError):
            return place_of_hang(leaf)
    return next((leaf for leaf in leaves if not isinstance(leaf, refusals)), leaves[0])


def _leaves(error: BaseException, depth: int) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup) and depth:
        for inner in error.exceptions:
            yield from _leaves(inner, depth - 1)
    else:
        yield error


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _clear(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel what a load has left behind, as :func:`asyncio.run` does; whether it is gone."""
    left = [task for task in asyncio.all_tasks(loop) if not task.done()][:TASKS_MAX]
    if not left:
        return True
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.wait(left, timeout=CANCEL_S))
    for task in left:
        if task.done() and not task.cancelled():
            task.exception()  # seen: asyncio need not tell of it
    return all(task.done() for task in left)
