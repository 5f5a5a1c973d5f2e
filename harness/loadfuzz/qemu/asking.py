"""Commands to a QEMU that may die or hang over them, and what to make of it when it does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.qemu.monitor import Monitor, Reply
from loadfuzz.qemu.pace import WAIT_MAX_S, Wait
from loadfuzz.qemu.process import REAP_DEADLINE_S, Ending, Process
from loadfuzz.qemu.verdicts import judge_death
from loadfuzz.qemu.vitals import CPUClock, backtraces, common_calls, state_of

LOOK_S: Final = 0.05
"""How often a late command is looked at: some system calls each time."""
BUSY_LOOKS: Final = 5
"""Looks at a loop: at two it is often within the same call by chance."""
BUSY: Final = "busy"
BLOCKED: Final = "blocked"
LOST: Final = "lost"

Ask: TypeAlias = Callable[[Sequence[bytes], str], Awaitable[list[Reply]]]
"""Called with commands and with what they do, "" for the load itself; returns all answers or
raises :class:`FailedError`."""


class Live(Protocol):
    """A QEMU that is spoken to, however it was started."""

    @property
    def process(self) -> Process:
        """It."""
        ...

    @property
    def monitor(self) -> Monitor:
        """Its QMP channel."""
        ...

    @property
    def clock(self) -> CPUClock:
        """What it has used of the processor."""
        ...


class FailedError(Exception):
    """QEMU died or hangs.

    Attributes:
        doing: what it was told to do, "" for the load itself.
        seen: :data:`BUSY`, :data:`BLOCKED` or :data:`LOST`; "" for one that closed its channel.
    """

    def __init__(self, doing: str, seen: str = "") -> None:
        super().__init__(doing, seen)
        self.doing = doing
        self.seen = seen


class Watch:
    """Waiting for answers of a QEMU that may die or hang over them.

    Args:
        live: the QEMU.
        doing: what it is told to do, "" for the load itself.
        limit_s: CPU seconds after which it counts as a hang.
        first_look_s: wall seconds after which to begin to look.
    """

    __slots__ = (
        "_before_s", "_cpu_before_s", "_doing", "_first_look_s", "_last", "_live", "_loop",
        "_wait",
    )  # fmt: skip

    def __init__(self, live: Live, doing: str, limit_s: float, first_look_s: float) -> None:
        self._live = live
        self._doing = doing
        self._first_look_s = first_look_s
        self._loop = asyncio.get_running_loop()
        self._before_s = self._loop.time()
        self._cpu_before_s = live.clock.now_s()
        self._wait = Wait(limit_s)
        self._last = Wait(limit_s)

    @property
    def waited_s(self) -> float:
        """Wall seconds since this was made."""
        return self._loop.time() - self._before_s

    @property
    def cpu_s(self) -> float:
        """CPU seconds that QEMU has used since."""
        return self._live.clock.now_s() - self._cpu_before_s

    async def answers(self, count: int) -> list[Reply]:
        """The next answers.

        Raises:
            FailedError: it died or hangs.
            InfraError: what it answers is no QMP.
        """
        monitor = self._live.monitor
        if not await monitor.wait(count, self._first_look_s):
            while True:  # until there is an answer, or at most WAIT_MAX_S
                self.look()
                if await monitor.wait(count, LOOK_S):
                    break
        answers = monitor.replies(count)
        if len(answers) < count:
            raise FailedError(self._doing)
        return answers

    def look(self) -> None:
        """See how it fares while it does not answer.

        Raises:
            FailedError: it hangs.
        """
        self._fail(self._wait.look(self.waited_s, self.cpu_s, state_of(self._live.process.pid)))

    def look_between(self) -> None:
        """See how it fares between two questions: it answers, and still has no verdict.

        Raises:
            FailedError: it works for ever, or has not got on from one question to the next
                for so long that it waits for what does not come.
        """
        last, waited_s, cpu_s = self._last, self.waited_s, self.cpu_s
        seen = last.look(waited_s, cpu_s, "S")
        # Answering takes some time, too: that must not add up.
        last.cpu_s = cpu_s
        self._fail(seen)

    def _fail(self, seen: str) -> None:
        if seen:
            raise FailedError(self._doing, seen)


async def ask(
    live: Live, commands: Sequence[bytes], doing: str, *, limit_s: float, first_look_s: float
) -> list[Reply]:
    """Send commands and wait for their answers, or for certainty that none will come.

    Args:
        live: the QEMU.
        commands: encoded.
        doing: for :class:`FailedError`.
        limit_s: CPU seconds after which they count as a hang.
        first_look_s: wall seconds after which to begin to look.

    Raises:
        FailedError: it died or hangs.
        InfraError: what it answers is no QMP.
    """
    watch = Watch(live, doing, limit_s, first_look_s)
    live.monitor.send(*commands)
    return await watch.answers(len(commands))


def judge_ending(ending: Ending, doing: str) -> Execution:
    """The verdict on one that is to go on whatever it loads: it died.

    Args:
        ending: of its process.
        doing: what it was told to do, "" for the load itself.

    Raises:
        InfraError: somebody else ended it.
    """
    death = judge_death(ending, doing)
    return Execution(death.kind, _depth(doing), escape=death.escape)


async def judge_failure(
    live: Live,
    failed: FailedError,
    cpu_before_s: float,
    *,
    explain: bool = True,
    judge: Callable[[Ending, str], Execution] = judge_ending,
) -> Execution:
    """The verdict on a QEMU that died or hangs; it is good for nothing more.

    Args:
        live: the QEMU.
        failed: how it showed.
        cpu_before_s: its CPU clock when the load began.
        explain: find out where it hangs.
        judge: the verdict on one that ended, from its end and what it was told to do.

    Raises:
        InfraError: it was ended from outside, or nothing can be said.
    """
    cpu_s = max(live.clock.now_s() - cpu_before_s, 0.0)
    if failed.seen == LOST:
        raise InfraError(
            f"QEMU neither answers nor sleeps nor gets to work for {WAIT_MAX_S:.0f} s; "
            "use fewer workers, or see what else the machine does (a dead disk, a process stopped)"
        )
    if not failed.seen:
        code = await live.process.wait(REAP_DEADLINE_S)
        if code is not None:
            return replace(judge(live.process.ending(code), failed.doing), cpu_s=cpu_s)
        failed = FailedError(failed.doing or "ending", BLOCKED)
    message = f"{failed.doing}: {failed.seen}" if failed.doing else failed.seen
    frames = await _place(live.process.pid, failed.seen) if explain else ()
    escape = Escape("hang", message, frames)
    return Execution(ExitKind.TIMED_OUT, _depth(failed.doing), escape=escape, cpu_s=cpu_s)


def _depth(doing: str) -> Depth:
    return Depth.ACCEPTED if doing else Depth.FIRST_SECTION


async def _place(pid: int, seen: str) -> tuple[str, ...]:
    """The innermost call that does not end."""
    return common_calls(await backtraces(pid, BUSY_LOOKS if seen == BUSY else 1))
