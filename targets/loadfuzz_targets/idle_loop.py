"""An event loop that notices when nothing can happen any more.

A loader that is fed from memory has nobody to wait for: when all of its tasks wait and no
timer runs, none of them will ever go on.  In a program that would be a hang without any use
of CPU time; here it is told at once, with the place that waits, and costs no wall-clock time.

A timer, a thread or a child process can still wake a loop.  For those there is a bound.
Under faults, which have a time of their own, timers cost none: there the loop is a virtual one
(:mod:`loadfuzz.virtual_loop`), with the same bound.
"""

import asyncio
import selectors
import time
from collections.abc import Iterator
from os.path import basename, dirname
from types import CodeType, CoroutineType, FrameType, TracebackType
from typing import Final

from loadfuzz.cancelling import CancelledAt
from loadfuzz.executors.watchdog import HangError
from loadfuzz.selecting import PassingSelector
from loadfuzz.virtual_loop import VirtualLoop

SLEEP_S_MAX: Final = 5.0
"""Seconds that a load may sleep altogether: a loader that waits for a device to settle waits
some milliseconds, and a campaign has no more patience."""
GRACE_S: Final = 0.5
"""How long a loop without timers may wait for a thread or a child of the loader's."""
AWAITS_MAX: Final = 200
"""Coroutines that are followed from one that awaits to the next."""


class IdleSelector(PassingSelector):
    """The platform's selector, which raises instead of waiting for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._slept_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """A load begins in ``loop``."""
        self._slept_s = 0.0
        self._loop = loop

    def end(self) -> None:
        """It is over; nothing is watched until the next."""
        self._loop = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See :meth:`selectors.BaseSelector.select`.

        Raises:
            HangError: nothing will ever come, or the load has slept too long.
        """
        loop = self._loop
        if loop is None or timeout == 0:
            return self._real.select(timeout)
        left_s = SLEEP_S_MAX - self._slept_s
        allowed_s = min(GRACE_S if timeout is None else left_s, left_s)
        begun = time.monotonic()
        wait_s = allowed_s if timeout is None else min(timeout, allowed_s)
        ready = self._real.select(max(wait_s, 0.0))
        self._slept_s += time.monotonic() - begun
        if not ready and (timeout is None or timeout > allowed_s):
            self._loop = None  # what cleans up behind it may wait again
            raise HangError(frames_of_waiting(loop))
        return ready


def frames_of_waiting(loop: asyncio.AbstractEventLoop) -> tuple[str, ...]:
    """``file.py:function:line`` of the coroutines that wait, innermost last: those of the
    task that was begun last, since the others wait for it as a rule.  asyncio's own are left
    out: everybody waits in them."""
    waiting: tuple[str, ...] = ()
    for task in sorted(asyncio.all_tasks(loop), key=_number):
        waiting = tuple(map(_named, _frames_of(task))) or waiting
    return waiting


def trace_of_waiting(task: "asyncio.Task[object]") -> TracebackType | None:
    """Where a task waits, as the traceback of something that was raised there."""
    trace: TracebackType | None = None
    for frame in reversed(list(_frames_of(task))):
        trace = TracebackType(trace, frame, max(frame.f_lasti, 0), frame.f_lineno)
    return trace


def _frames_of(task: "asyncio.Task[object]") -> Iterator[FrameType]:
    """Of the loader's coroutines that wait in a task, innermost last."""
    awaited: object = task.get_coro()
    if isinstance(awaited, CancelledAt):
        awaited = awaited.coroutine
    for _ in range(AWAITS_MAX):
        if not isinstance(awaited, CoroutineType) or awaited.cr_frame is None:
            break
        if _is_theirs(awaited.cr_code):
            yield awaited.cr_frame
        awaited = awaited.cr_await


def place_of_hang(error: HangError, waiting: tuple[str, ...] = ()) -> HangError:
    """The same hang, told by the loader's own functions.

    A task that goes round and round through the loop is on the stack now and then only, so
    that all a watchdog sees each time is the loop.

    Args:
        error: as it was raised.
        waiting: where tasks that have not ended wait now.
    """
    if not error.frames or error.frames[-1].partition(":")[0] not in _LOOP_FILES:
        return error
    raised: list[str] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if _is_theirs(trace.tb_frame.f_code):
            raised.append(_named(trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return HangError(waiting or tuple(raised) or error.frames)


def _is_theirs(code: CodeType) -> bool:
    return dirname(code.co_filename) not in _NOT_THEIRS


def _named(frame: FrameType, line: int | None = None) -> str:
    code = frame.f_code
    line = frame.f_lineno if line is None else line
    return f"{basename(code.co_filename)}:{code.co_qualname}:{line}"


def _number(task: "asyncio.Task[object]") -> tuple[int, str]:
    """Tasks in the order in which they were made, as far as their names tell."""
    name = task.get_name()
    return len(name), name


def new_loop(selector: IdleSelector) -> asyncio.SelectorEventLoop:
    """A loop that waits with ``selector``, and keeps to itself what it would log: a task whose
    error nobody asked for is the loader's own affair."""
    loop = asyncio.SelectorEventLoop(selector)
    loop.set_exception_handler(lambda loop, context: None)
    return loop


def new_virtual_loop(faults_s: float) -> VirtualLoop:
    """A loop without time, as quiet as that of :func:`new_loop`.

    Args:
        faults_s: virtual seconds that faults may take; the loader may sleep
            :data:`SLEEP_S_MAX` beside.
    """
    loop = VirtualLoop(
        limit_s=faults_s + SLEEP_S_MAX,
        stuck=lambda loop, reason: HangError(frames_of_waiting(loop)),
    )
    loop.set_exception_handler(lambda loop, context: None)
    return loop


_NOT_THEIRS: Final = frozenset(
    dirname(file)
    for file in (
        asyncio.__file__,
        new_loop.__code__.co_filename,
        VirtualLoop.time.__code__.co_filename,
        HangError.__init__.__code__.co_filename,
    )
)
_LOOP_FILES: Final = frozenset(
    {
        "base_events.py", "events.py", "idle_loop.py", "runners.py", "selectors.py",
        "selector_events.py", "tasks.py", "virtual_loop.py",
    }
)  # fmt: skip
"""Files of asyncio's that are on the stack between two steps of a task."""
