"""Interrupts a load that burns CPU without end.

Theory of operation.  A timer of the process's own CPU time ticks a few times
per time limit, all the time.  Whoever is to be guarded counts up
:attr:`Watchdog.serial` when it begins and clears :attr:`Watchdog.armed` when
it ends, two plain stores.  A tick that finds the same serial as the tick
before counts it; after :data:`TICKS_PER_LIMIT` of them :class:`HangError` is
raised inside whatever runs, and again at every further tick, since a loader
may swallow it.  So guarding a load costs next to nothing, and a limit is exact
to one tick.

A kernel may book a whole tick on whoever it finds running, and on a busy machine
several at once.  So a tick is a reason to look, and the process's clock decides.

Where a loop happens to be at one tick is chance.  So the stack is looked at at
every tick, and the calls that were under way at all looks end in the function
that loops.  The first look does not count: it may have come before the loop did.

What measures coverage calls its own code on every call of the loader's, under a lock
that it would never give back: there a tick waits for the next one.

ITIMER_VIRTUAL, because libFuzzer owns ITIMER_REAL and SIGALRM.  It counts user
time only: a load that sleeps is the supervisor's to notice.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import basename
from types import FrameType, TracebackType
from typing import Final

SUSPICION_SHARE: Final = 4
"""A load is suspected of a hang after this part of its CPU limit, so that a
target that hangs often does not use up the campaign; the re-run that confirms
it has all of the limit, so that a load that was only slow is no finding."""

TICKS_PER_LIMIT: Final = 4
"""A hang is noticed after 4 to 5 quarters of its limit."""

LOOKS_FROM: Final = 2
"""The look from which on stacks are compared.  A good load is over before there is a second."""

TICK_S_MIN: Final = 0.004
"""The kernel's own tick; a finer one would only pretend."""

STACK_MAX: Final = 200
"""Frames looked at, from the outermost."""


class HangError(BaseException):
    """The guarded code has used up its CPU time.  Not an :class:`Exception`, so
    that a loader's own error handling does not stop it.

    Args:
        frames: ``file.py:function:line`` of the stack at every look, innermost
            (the function that does not end) last.
    """

    def __init__(self, frames: tuple[str, ...]) -> None:
        super().__init__("interrupted")
        self.frames = frames


class Watchdog:
    """A repeating CPU timer; a context manager that gives back what it took.

    Outside the main thread, where Python delivers no signals, it does nothing:
    there the supervisor's deadline has to do.

    Args:
        limit_s: CPU seconds that the guarded code may use.

    Attributes:
        serial: to be counted up by the guarded code when it begins.
        armed: whether guarded code runs now.
        limit_s: may be changed while nothing is guarded.
    """

    __slots__ = (
        "armed",
        "limit_s",
        "serial",
        "_looking",
        "_noticed",
        "_noticed_s",
        "_old_handler",
        "_old_timer",
        "_ticks",
        "_ticks_max",
        "_times",
        "_on",
        "_stack",
    )

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.serial = 0
        self.armed = False
        self._noticed = -1
        self._noticed_s = 0.0
        self._looking = False
        self._ticks = 0
        self._times = 1
        self._ticks_max = TICKS_PER_LIMIT
        self._old_handler: object = None
        self._old_timer = (0.0, 0.0)
        self._on = False
        self._stack: list[FrameType] = []

    def __enter__(self) -> "Watchdog":
        if threading.current_thread() is threading.main_thread():
            tick_s = max(self.limit_s / TICKS_PER_LIMIT, TICK_S_MIN)
            self._old_handler = signal.signal(signal.SIGVTALRM, self._tick)
            self._old_timer = signal.setitimer(signal.ITIMER_VIRTUAL, tick_s, tick_s)
            self._on = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on:
            self._on = False
            signal.setitimer(signal.ITIMER_VIRTUAL, *self._old_timer)
            signal.signal(signal.SIGVTALRM, self._old_handler)  # type: ignore[arg-type]

    def allow(self, times: int) -> None:
        """Let what is guarded from now on use ``times`` the limit."""
        self._times = times
        self._ticks_max = TICKS_PER_LIMIT * times

    @contextmanager
    def allowing(self, times: int) -> Iterator[None]:
        """The same for a while, and at least what is allowed already."""
        before = self._times
        self.allow(max(times, before))
        try:
            yield
        finally:
            self.allow(before)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        if self._looking:
            return  # a look that takes longer than a tick is no look at the loader
        self._looking = True
        try:
            self._look(frame)
        finally:
            self._looking = False

    def _look(self, frame: FrameType | None) -> None:
        if not self.armed:
            self._stack = []
            return
        stack = _stack_of(frame)
        if self._noticed != self.serial:
            self._noticed = self.serial
            self._noticed_s = time.process_time()
            self._ticks = 1
            self._stack = stack
            return
        self._ticks += 1
        if self._ticks == LOOKS_FROM:
            self._stack = stack
            return
        common = 0
        # The frames are held, so the same object is the same call.
        for old, new in zip(self._stack, stack, strict=False):
            if old is not new:
                break
            common += 1
        self._stack = stack[:common]
        if (
            self._ticks > self._ticks_max
            and time.process_time() - self._noticed_s >= self.limit_s * self._times
            and not _measures(frame)
        ):
            raise HangError(tuple(_name_of(frame) for frame in self._stack))


def _measures(frame: FrameType | None) -> bool:
    """Whether coverage.py itself runs, and not what it measures."""
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("coverage.")


def _name_of(frame: FrameType) -> str:
    code = frame.f_code
    return f"{basename(code.co_filename)}:{code.co_qualname}:{frame.f_lineno}"


def _stack_of(frame: FrameType | None) -> list[FrameType]:
    """Outermost first; of a runaway recursion the innermost calls are left out."""
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    stack.reverse()
    return stack[:STACK_MAX]
