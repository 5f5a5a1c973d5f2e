"""Time as something that is passed in, so that tests decide what it is."""

import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back."""

    def now_s(self) -> float:
        """Seconds since some fixed moment."""


class SystemClock:
    """The machine's monotonic clock."""

    __slots__ = ()

    def now_s(self) -> float:
        """Seconds since some fixed moment, unaffected by changes of the date."""
        return time.monotonic()


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
