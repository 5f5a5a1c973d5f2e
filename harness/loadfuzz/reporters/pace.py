"""How fast a campaign goes now, and how long it has gone on."""

from collections import deque
from typing import Final

from loadfuzz.clock import Clock

WINDOW_S: Final = 5.0
"""The present rate is that of these last seconds: long enough not to jump."""


class Pace:
    """Measures the time since it was made.

    Args:
        clock: that it reads.
    """

    __slots__ = ("_clock", "_points", "_start_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s = clock.now_s()
        self._points: deque[tuple[float, int]] = deque([(self._start_s, 0)])

    def restart(self) -> None:
        """Count from now on."""
        self._start_s = self._clock.now_s()
        self._points = deque([(self._start_s, 0)])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock.now_s() - self._start_s

    def rate(self, executions: int) -> float:
        """Executions per second of late, given the total now."""
        now_s = self._clock.now_s()
        points = self._points
        points.append((now_s, executions))
        while len(points) > 2 and points[1][0] <= now_s - WINDOW_S:
            points.popleft()
        since_s, before = points[0]
        return (executions - before) / (now_s - since_s) if now_s > since_s else 0.0
