"""The incoming executor: each stream has a QEMU of its own, started before it is needed.

``-incoming`` is the other way into QEMU's loader: there is a true end of file behind the
stream, the machine is as it was made, and a QEMU loads once in its life.  So starting one is
what costs, and that is done ahead: while one loads others come up, and those that have
loaded end.  Neither is waited for, and no task is needed for it: a process that was started
comes up by itself, and one that was killed is collected at one of the next loads.

The verdict is QEMU's answer to ``query-migrate``, asked behind the end of the stream, or the
way in which it ended.  One that waits for more of a stream that has ended hangs.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.qemu import tracelog
from loadfuzz.qemu.asking import FailedError, Watch, ask, judge_failure
from loadfuzz.qemu.brief import sweep
from loadfuzz.qemu.closer import RUNNING, STOPPING, status_of
from loadfuzz.qemu.incoming_verdicts import judge_end, judge_refusal, mumbled
from loadfuzz.qemu.instance import place_for
from loadfuzz.qemu.listener import Listener, progress_of, reason_of, starter_of
from loadfuzz.qemu.loadvm import GUEST_RUN_S
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.monitor import Reply, encode
from loadfuzz.qemu.pace import Pace
from loadfuzz.qemu.process import end_all
from loadfuzz.qemu.starter import Starter

READY_MAX: Final = 16
"""Processes that may wait for their stream; each takes some 40 MB."""
ENDING_MAX: Final = 8
"""Killed processes that may not be gone yet; one is in some milliseconds."""
EXIT_S: Final = 1.0
"""How long one that says that its load failed has for ending by itself, as QEMU does: what
it says then is all there is to know."""
_START_TRIES: Final = 3
"""One may have died while it waited, and the next for the same reason; the last try is with
one that is started just now, and says why it does not come up."""
_FILES_SIZE: Final = 1 << 23
"""Bytes for the log and the words of one process."""
_PAUSE_MIN_S: Final = 0.0005
_PAUSE_MAX_S: Final = 0.02
"""Between two questions to a QEMU that still loads, growing from the one to the other."""

_QUERY: Final = encode("query-migrate")
_STATUS: Final = encode("query-status")


class IncomingExecutor:
    """QEMUs that wait for a stream (:class:`loadfuzz.abc.Executor`); made by
    :func:`incoming_executor`.

    Attributes:
        generation: of the process that loads, or loaded last; 0 before the first.  Each load
            has a process of its own, so it goes up with each.
    """

    __slots__ = (
        "_base", "_ending", "_live", "_load_timeout_s", "_pace", "_ready", "_spec", "_starter",
        "_waiting", "generation",
    )  # fmt: skip

    def __init__(
        self,
        spec: MachineSpec,
        base: Path,
        load_timeout_s: float,
        ready: int,
        starter: Starter,
    ) -> None:
        self.generation = 0
        self._spec = spec
        self._base = base
        self._load_timeout_s = load_timeout_s
        self._ready = ready
        self._starter = starter
        self._pace = Pace()
        self._waiting: deque[Listener] = deque()
        self._live: Listener | None = None
        self._ending: deque[Listener] = deque()

    @property
    def pid(self) -> int | None:
        """Process id of the QEMU that loads, ``None`` between two."""
        return None if self._live is None else self._live.process.pid

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """Load a stream into a fresh machine.

        Looked at closely, an accepted stream's guest runs for some milliseconds, and the
        events tell of sections and fields.  A failure there begins its message with what
        was being done.

        Cancellation ends the process; the next load has another one.

        Raises:
            InfraError: as :meth:`loadfuzz.abc.Executor.execute`, or no QEMU comes up any more.
            UsageError: QEMU cannot be started any more.
        """
        await self._collect()
        await self._starter.freshen()
        live = self._live = await self._take()
        self.generation += 1
        try:
            return await self._run(live, stream, closely=closely)
        finally:
            self._live = None
            live.kill()
            self._ending.append(live)

    async def renew(self) -> None:
        """Make sure that there is a QEMU for the next load; no load leaves anything to it.

        Raises:
            UsageError: QEMU cannot be started so.
            InfraError: it cannot be started any more.
        """
        self._waiting.appendleft(await self._take())
        self._refill()

    async def close(self) -> None:
        """End all processes.

        Raises:
            InfraError: one does not die; the others are ended all the same.
        """
        every = [*self._waiting, *self._ending]
        self._waiting.clear()
        self._ending.clear()
        try:
            await end_all(every)
        finally:
            self._starter.end()

    # -- the pool ------------------------------------------------------------------------------

    async def _take(self) -> Listener:
        """One that waits for its stream."""
        for left in reversed(range(_START_TRIES)):
            old = self._waiting.popleft() if self._waiting and left else None
            listener = old or self._start()
            try:
                await listener.ready()
            except BaseException as error:
                await listener.end()
                if not left or not isinstance(error, UsageError | InfraError):
                    raise
                if left == 1:
                    self._starter.end()  # a copy may fail where a process would not
            else:
                return listener
        raise AssertionError("the last try returns or raises")

    def _refill(self) -> None:
        """Start as many as are missing."""
        for listener in self._waiting:
            listener.settle()
        # What cannot be started now is tried again when it is needed, and then says why.
        with contextlib.suppress(UsageError, InfraError):
            while len(self._waiting) < self._ready:
                self._waiting.append(self._start())

    def _start(self) -> Listener:
        """One that comes up."""
        return Listener.start(self._spec, self._base, self._starter)

    async def _collect(self) -> None:
        """Let go of those that have ended."""
        while self._ending:
            oldest = self._ending[0]
            if oldest.process.returncode is None and len(self._ending) <= ENDING_MAX:
                break
            self._ending.popleft()
            await oldest.end()

    # -- one load ------------------------------------------------------------------------------

    async def _run(self, live: Listener, stream: bytes, *, closely: bool) -> Execution:
        events: list[str] = []
        cpu_before_s = live.clock.now_s()
        try:
            if closely:
                await self._ask(live, [tracelog.SWITCH_ON], "")
            execution = await self._load(live, stream)
            if closely:
                events += [*live.log.take(), *execution.events]
            if closely and execution.kind is ExitKind.ACCEPTED:
                events += await self._run_guest(live)
        except FailedError as failed:
            execution = await judge_failure(live, failed, cpu_before_s, judge=judge_end)
            if closely:
                events += live.log.take()
        return replace(execution, events=tuple(events)) if closely else execution

    async def _load(self, live: Listener, stream: bytes) -> Execution:
        """Give it the stream, and ask until it has a verdict."""
        watch = Watch(live, "", self._load_timeout_s, self._pace.deadline_s)
        live.feed(stream, lambda: live.monitor.send(_QUERY))
        self._refill()
        pause_s = _PAUSE_MIN_S
        while True:  # until there is a verdict, or at most WAIT_MAX_S: see Watch
            reply = (await watch.answers(1))[0]
            state = progress_of(reply)
            if state == "completed":
                self._pace.took(watch.waited_s)
                said = tuple(f"said {line}" for line in mumbled(live.process.news()))
                return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, cpu_s=watch.cpu_s, events=said)
            if state == "failed":
                return await _refusal(live, reply, watch.cpu_s)
            watch.look_between()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            live.monitor.send(_QUERY)

    async def _run_guest(self, live: Listener) -> list[str]:
        """Let the guest run for a while; the events that are worth telling."""
        started = (await self._ask(live, [encode("cont")], RUNNING))[0]
        if started.error:
            return [f"run refused: {started.error}"]
        await asyncio.sleep(GUEST_RUN_S)
        await self._ask(live, [encode("stop")], RUNNING)
        status = status_of((await self._ask(live, [_STATUS], STOPPING))[0])
        return [] if status == "paused" else [f"guest {status}"]

    async def _ask(self, live: Listener, commands: Sequence[bytes], doing: str) -> list[Reply]:
        limit_s, first_look_s = self._load_timeout_s, self._pace.deadline_s
        return await ask(live, commands, doing, limit_s=limit_s, first_look_s=first_look_s)


async def _refusal(live: Listener, reply: Reply, cpu_s: float) -> Execution:
    """The verdict on one that says itself that the load failed."""
    code = await live.process.wait(EXIT_S)
    if code is not None:
        return replace(judge_end(live.process.ending(code)), cpu_s=cpu_s)
    judged = judge_refusal(live.process.news() or reason_of(reply))
    return Execution(ExitKind.REJECTED, judged.depth, judged.refusal, cpu_s=cpu_s)


@contextlib.asynccontextmanager
async def incoming_executor(
    spec: MachineSpec,
    folder: Path,
    load_timeout_s: float,
    *,
    ready: int = 2,
    copies: bool = False,
) -> AsyncIterator[IncomingExecutor]:
    """QEMUs that wait for streams, for the duration of an ``async with`` block.

    However the block is left, no process and no file of them remains.  From the main thread:
    the kernel ties a QEMU to the thread that started it.

    Args:
        spec: the machine; its address space should have a limit.
        folder: for logs where shared memory has no room; it exists, and is nobody else's.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        ready: processes started ahead, up to :data:`READY_MAX`: one for each processor; with 0
            each is started when it is needed, as a benchmark wants it.
        copies: processes may be copies of one another, see :mod:`loadfuzz.qemu.template`.

    Raises:
        UsageError: QEMU cannot be started so.
        InfraError: something of ours failed.
    """
    if not 0 <= ready <= READY_MAX:
        raise UsageError(f"{ready} processes started ahead are not possible; use 0 to {READY_MAX}")
    base = place_for(folder, (ready + 1) * _FILES_SIZE)
    sweep(base)
    starter = starter_of(spec)
    executor = IncomingExecutor(spec, base, load_timeout_s, ready, starter)
    try:
        if copies:
            await starter.prepare()
        await executor.renew()
        yield executor
    finally:
        await executor.close()
