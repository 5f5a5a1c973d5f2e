"""A Python function as a loader: fed in pieces, and what leaves it translated."""

import asyncio
import inspect
import io
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Final
from weakref import finalize

from loadfuzz.cancelling import CancelledAt
from loadfuzz.executors.watchdog import HangError
from loadfuzz.faults.kinds import Layer
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan
from loadfuzz.inputs import WHOLE, Delivery
from loadfuzz_targets.callable_errors import (
    TasksLeftError,
    as_refusal,
    first_of,
    refuses_with,
    without_addresses,
)
from loadfuzz_targets.callable_feeding import FedFile, FedReader, Feed
from loadfuzz_targets.callable_finding import Found, Function, Gives
from loadfuzz_targets.idle_loop import (
    IdleSelector,
    frames_of_waiting,
    new_loop,
    new_virtual_loop,
    place_of_hang,
    trace_of_waiting,
)
from savevm.errors import LoadError
from savevm.trace import Trace

TASKS_MAX: Final = 10_000
"""Tasks that a load may leave behind; each is cancelled, and awaited."""
CANCEL_S: Final = 2.0
"""How long they may take to end."""
MS_PER_S: Final = 1_000


class CallableSubject:
    """The function as a live loader (:class:`loadfuzz.abc.Subject`), around which things can go
    wrong (:class:`loadfuzz.abc.TakesFaults`).

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
        self._close: Callable[[], object] = _nothing
        self._feed = Feed(b"", WHOLE)
        self._left: list[TracebackType | None] = []
        self._tasks_left = 0

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Call the function; see :meth:`loadfuzz.abc.Subject.load`.

        Raises:
            LoadError: it refuses the stream.
            HangError: it waits for what never comes.
            BaseException: whatever else leaves it.
        """
        __tracebackhide__ = True
        self._load(stream, delivery, NO_FAULTS)

    @property
    def layers(self) -> frozenset[Layer]:
        """The transport, and for a coroutine its process: its task can be cancelled.  Bytes that
        are given at once can only be others, or fewer."""
        found = self._found
        if found.gives is Gives.READER or _is_async(found.function):
            return frozenset({Layer.TRANSPORT, Layer.PROCESS})
        return frozenset({Layer.TRANSPORT})

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        """Call the function while ``faults`` happen; see
        :meth:`loadfuzz.abc.TakesFaults.load_under`.

        Its event loop has virtual time.  What is cancelled is the task that runs it.

        Raises:
            LoadError: it refuses, passes on the error of the transport, gives up after a
                silence, or ends as it was cancelled.
            TasksLeftError: it does so, and leaves tasks behind.
            HangError: it waits for what never comes.
            BaseException: whatever else leaves it.
        """
        __tracebackhide__ = True
        try:
            self._load(stream, delivery, faults)
        except LoadError as error:
            if self._left:
                left = TasksLeftError(len(self._left))
                raise left.with_traceback(self._left[-1]) from error
            raise

    def struck(self) -> Sequence[Fault]:
        """See :meth:`loadfuzz.abc.TakesFaults.struck`."""
        return tuple(self._feed.struck)

    def _load(self, stream: bytes, delivery: Delivery, plan: FaultPlan) -> None:
        __tracebackhide__ = True
        found = self._found
        at_once = found.gives is Gives.BYTES
        feed = self._feed = Feed(stream, delivery, plan, at_once=at_once)
        self._left = []
        try:
            value = self._call(feed, plan)
        except BaseException as error:
            refuses = refuses_with(found.refusals, feed)
            leaf = first_of(error, refuses)
            if refuses(leaf):
                self._tasks_left += len(self._left)
                raise as_refusal(leaf) from leaf
            if leaf is error:
                raise
            raise leaf from error
        self._accepted = stream
        if found.returns_state:
            told = without_addresses(repr(value))
            self._digest = f"return={blake2b(told.encode(), digest_size=8).hexdigest()}"

    def _call(self, feed: Feed, plan: FaultPlan) -> object:
        __tracebackhide__ = True
        function = self._found.function
        match self._found.gives:
            case Gives.BYTES:
                value = function(feed.whole())
            case Gives.FILE:
                value = function(io.BufferedReader(FedFile(feed)))
            case Gives.READER:
                value = _fed(function, feed)
        return self._run(value, feed, plan) if inspect.isawaitable(value) else value

    def _run(self, awaitable: Awaitable[object], feed: Feed, plan: FaultPlan) -> object:
        __tracebackhide__ = True
        main = awaitable if isinstance(awaitable, Coroutine) else _await(awaitable)
        if not plan:
            return self._run_in_real_time(main)
        if feed.cancels:
            main = CancelledAt(main, feed.cancel_at)
        # A loop of its own each time: timers that a load forgot must not go off in the next.
        loop = new_virtual_loop(plan.deadline_ms / MS_PER_S)
        try:
            return loop.run_until_complete(main)
        except HangError as error:
            raise place_of_hang(error, frames_of_waiting(loop)) from None
        finally:
            try:
                self._clear(loop)
            finally:
                loop.close()

    def _run_in_real_time(self, main: Coroutine[object, object, object]) -> object:
        __tracebackhide__ = True
        loop = self._loop
        if loop is None:
            loop = self._loop = new_loop(self._selector)
            # A __del__ could come after that of the loop's own sockets.
            self._close = finalize(self, loop.close)
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
            if not self._clear(loop) or self._loop is None:
                self._loop = None
                self._selector = IdleSelector()
                self._close()

    def _clear(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Cancel what a load has left behind, as :func:`asyncio.run` does; whether it is gone."""
        left = [task for task in asyncio.all_tasks(loop) if not task.done()][:TASKS_MAX]
        if not left:
            return True
        # An asynchronous generator that is closed makes a task, too, and nobody's fault.
        self._left = [
            trace_of_waiting(task) for task in left if inspect.iscoroutine(task.get_coro())
        ]
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=CANCEL_S))
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # seen: asyncio need not tell of it
        return all(task.done() for task in left)

    def resources(self) -> Mapping[str, int]:
        """Tasks that loads have left behind when they refused
        (:class:`loadfuzz.abc.Accountable`).  One that accepts may have started them to stay."""
        return {"tasks": self._tasks_left}

    def damages(self) -> Sequence[str]:
        """Nothing: there is no memory that we could see."""
        return ()

    def reset(self) -> None:
        """Forget what was accepted, and everything that waits."""
        self._accepted = None
        self._digest = ""
        self._tasks_left = 0

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


async def _fed(function: Function, feed: Feed) -> object:
    """Call the function with a reader that is fed when it waits."""
    __tracebackhide__ = True
    reader = FedReader(feed)
    try:
        value = function(reader)
        return await value if inspect.isawaitable(value) else value
    finally:
        reader.stop()


def _nothing() -> None:
    """There is no loop to close."""


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that is called
    )
