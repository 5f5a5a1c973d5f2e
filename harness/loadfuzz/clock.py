"""Time as something that is passed in, so that tests decide what it is.

Who waits in a coroutine takes an :class:`AsyncClock`.  There is one of them,
:class:`LoopClock`, and it keeps the time of the event loop that runs: the system's on
asyncio's own loops, virtual on a :class:`loadfuzz.virtual_loop.VirtualLoop`.  The loop is the
one place that knows whether anybody can still go on, and whatever else of asyncio waits
(``asyncio.timeout``, ``call_later``) goes by its time, too: a virtual clock beside the loop
would let the two disagree.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back."""

    def now_s(self) -> float:
        """Seconds since some fixed moment."""


class AsyncClock(Clock, Protocol):
    """A clock by which a coroutine can wait."""

    async def sleep(self, seconds: float) -> None:
        """Wait; for 0 or less, let every other task have its turn once.

        Cancellation ends the wait, and changes nothing else.
        """


class SystemClock:
    """The machine's monotonic clock."""

    __slots__ = ()

    def now_s(self) -> float:
        """Seconds since some fixed moment, unaffected by changes of the date."""
        return time.monotonic()


class LoopClock:
    """The clock of the event loop that runs (:class:`AsyncClock`)."""

    __slots__ = ()

    def now_s(self) -> float:
        """Seconds since some fixed moment, as the running loop counts them.

        Raises:
            RuntimeError: no loop runs.
        """
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """See :meth:`AsyncClock.sleep`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves when it is told to.

    Args:
        start_s: what it shows first.
    """

    __slots__ = ("_now_s",)

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """What it shows."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` (not negative) go by."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._now_s += seconds
