"""When a load is late, and when it is a hang.

A load takes milliseconds, yet a busy machine may make it take a hundred times as long.  So
the wall clock only says when to look, a multiple of what loads took of late; what is seen
then decides: a load that has used its limit of CPU time is *busy* for ever, one whose process
sleeps and uses none is *blocked*, and any other is waited for: one that waits for a disk or
was stopped is no fault of the input.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 256
"""Loads whose times are remembered: half a second of them, so that a change of the input or
of the machine is followed soon."""
EVERY: Final = 64
"""Loads after which the deadline is worked out anew; sorting costs a load's time otherwise."""
MULTIPLE: Final = 20
"""A load is late when it takes so many times as long as nearly all others."""
FLOOR_S: Final = 0.1
"""No look before this, whatever loads take: the scheduler of a busy machine takes that long."""
CEILING_S: Final = 1.0
"""And no later than this, however slow loads have become."""
BLOCKED_S: Final = 3.0
"""How long a process may sleep without using the processor before it counts as blocked: nothing
that a load waits for (a file in memory) takes long."""
WAIT_MAX_S: Final = 120.0
"""A load that has neither ended nor used up its CPU time nor slept is given up after this:
something of the machine's is wrong."""
PROGRESS_S: Final = 0.002
"""CPU time between two looks that counts as none: threads wake up now and then to look."""


@dataclass(slots=True)
class Wait:
    """One load that is late.

    Attributes:
        limit_s: CPU seconds that it may use.
        progressed_s: wall seconds after its beginning when it last used the processor.
        cpu_s: CPU seconds that it had used then.
    """

    limit_s: float
    progressed_s: float = 0.0
    cpu_s: float = 0.0

    def look(self, waited_s: float, cpu_s: float, state: str) -> str:
        """What to think of it.

        Args:
            waited_s: wall seconds since it began.
            cpu_s: CPU seconds that it has used.
            state: of the process, see :func:`loadfuzz.qemu.vitals.state_of`.

        Returns:
            ``busy`` or ``blocked`` for a hang, ``lost`` when nothing can be said after
            :data:`WAIT_MAX_S`, "" to wait on.
        """
        if cpu_s >= self.limit_s:
            return "busy"
        # One that wants to run and is not let, waits for a disk or was stopped, is no news
        # either way.
        if cpu_s - self.cpu_s > PROGRESS_S or state != "S":
            self.cpu_s, self.progressed_s = cpu_s, waited_s
        elif waited_s - self.progressed_s >= BLOCKED_S:
            return "blocked"
        return "lost" if waited_s >= WAIT_MAX_S else ""


class Pace:
    """What loads take, and from that when one is late."""

    __slots__ = ("_since", "_times", "deadline_s")

    def __init__(self) -> None:
        self.deadline_s = FLOOR_S
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._since = 0

    def took(self, seconds: float) -> None:
        """A load that has ended took so long."""
        self._times.append(seconds)
        self._since += 1
        if self._since >= EVERY:
            self._since = 0
            slow = sorted(self._times)[(len(self._times) * 99) // 100]
            self.deadline_s = min(max(slow * MULTIPLE, FLOOR_S), CEILING_S)
