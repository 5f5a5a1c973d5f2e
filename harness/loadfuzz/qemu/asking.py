"""Commands to a QEMU that may die or hang over them, and what to make of it when it does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.qemu.instance import Instance
from loadfuzz.qemu.monitor import Reply
from loadfuzz.qemu.pace import WAIT_MAX_S, Wait
from loadfuzz.qemu.process import REAP_DEADLINE_S
from loadfuzz.qemu.verdicts import judge_death
from loadfuzz.qemu.vitals import backtraces, common_calls, state_of

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


async def ask(
    live: Instance, commands: Sequence[bytes], doing: str, *, limit_s: float, first_look_s: float
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
    monitor = live.monitor
    count = len(commands)
    cpu_before, before = live.clock.now_s(), asyncio.get_running_loop().time()
    monitor.send(*commands)
    if not await monitor.wait(count, first_look_s):
        wait = Wait(limit_s)
        while True:  # until there is an answer, or at most WAIT_MAX_S
            waited_s = asyncio.get_running_loop().time() - before
            cpu_s = live.clock.now_s() - cpu_before
            seen = wait.look(waited_s, cpu_s, state_of(live.process.pid))
            if seen:
                raise FailedError(doing, seen)
            if await monitor.wait(count, LOOK_S):
                break
    answers = monitor.replies(count)
    if len(answers) < count:
        raise FailedError(doing)
    return answers


async def judge_failure(
    live: Instance, failed: FailedError, cpu_before_s: float, *, explain: bool = True
) -> Execution:
    """The verdict on a QEMU that died or hangs; it is good for nothing more.

    Args:
        live: the QEMU.
        failed: how it showed.
        cpu_before_s: its CPU clock when the load began.
        explain: find out where it hangs.

    Raises:
        InfraError: it was ended from outside, or nothing can be said.
    """
    cpu_s = max(live.clock.now_s() - cpu_before_s, 0.0)
    depth = Depth.ACCEPTED if failed.doing else Depth.FIRST_SECTION
    if failed.seen == LOST:
        raise InfraError(
            f"QEMU neither answers nor sleeps nor gets to work for {WAIT_MAX_S:.0f} s; "
            "use fewer workers, or see what else the machine does"
        )
    if not failed.seen:
        code = await live.process.wait(REAP_DEADLINE_S)
        if code is not None:
            death = judge_death(live.process.ending(code), failed.doing)
            return Execution(death.kind, depth, escape=death.escape, cpu_s=cpu_s)
        failed = FailedError(failed.doing or "ending", BLOCKED)
    message = f"{failed.doing}: {failed.seen}" if failed.doing else failed.seen
    frames = await _place(live.process.pid, failed.seen) if explain else ()
    escape = Escape("hang", message, frames)
    return Execution(ExitKind.TIMED_OUT, depth, escape=escape, cpu_s=cpu_s)


async def _place(pid: int, seen: str) -> tuple[str, ...]:
    """The innermost call that does not end."""
    return common_calls(await backtraces(pid, BUSY_LOOKS if seen == BUSY else 1))
