"""The persistent QEMU executor: one process that is told ``loadvm`` again and again.

Theory of operation.  QEMU has an image open whose snapshot *is* the input: the input is
written over the snapshot's clusters and HMP ``loadvm`` is sent, with ``query-status`` right
behind it, so that a main loop that no longer turns shows with the input that stopped it.
What the monitor printed is the verdict.  A process that died, or hangs, is another one; the
next process was started long before and takes its place at once.

The machine keeps what the loads before have left in it, so a failure may take several
inputs; whoever keeps the last ones begins anew when :attr:`LoadvmExecutor.generation` changes.
The slot reads as zeros behind the input: there is no end of file, see :mod:`.incoming` for
a loader that has one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.qemu import tracelog
from loadfuzz.qemu.asking import Ask, FailedError, ask, judge_failure
from loadfuzz.qemu.brief import sweep
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.closer import NOT_RUN, look_closer
from loadfuzz.qemu.instance import CLEAN, INPUT, Instance, Plan, place_for
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.monitor import Reply, encode, encode_hmp
from loadfuzz.qemu.pace import Pace
from loadfuzz.qemu.process import PRINTED_MAX, end_all
from loadfuzz.qemu.rehearsal import Look, rehearse, remark
from loadfuzz.qemu.secondopinion import is_silent, without_memory
from loadfuzz.qemu.starter import Starter
from loadfuzz.qemu.verdicts import judge_reply
from loadfuzz.qemu.vitals import resident_bytes

LOADS_MAX: Final = 20_000
"""Loads of one process: half a minute of them, so that what leaks a little in each does not
pile up, and a sequence that fails is not of any length."""
GROWTH_MAX: Final = 256 << 20
"""Bytes that a process may have grown by; a load that leaks then does not take all memory."""
VITALS_EVERY: Final = 256
"""Loads after which a process's memory is looked at: half a second of them."""
LOG_POSITION_MAX: Final = PRINTED_MAX // 2
"""Bytes that a process may have logged: what it logs in one load must find room below the limit
of its files.  A pc reaches that after 200 loads that are looked at closely."""
SPARES_MAX: Final = 8
"""Processes that may wait for their turn; each takes some 40 MB."""
GUEST_RUN_S: Final = 0.005
"""How long a guest runs after a load that is looked at closely: timers that were loaded with
a wrong time fire within the first millisecond."""
ROOM: Final = 1 << 16
"""Bytes of zeros behind the longest input, where a loader that runs over its end reads on."""
_START_TRIES: Final = 3
"""A spare may have died while it waited, and a copy may not come up where a process does; one
that was started just now says why."""

_LOAD: Final = (encode_hmp(f"loadvm {INPUT}"), encode("query-status"))
_LOAD_CLEAN: Final = (encode_hmp(f"loadvm {CLEAN}"), encode("query-status"))


@dataclass(frozen=True, slots=True)
class Manners:
    """How an executor goes about it.

    Attributes:
        load_timeout_s: CPU seconds after which a load counts as a hang.
        spares: processes started ahead, 0 to :data:`SPARES_MAX`.
        guest_run_s: wall seconds that the guest runs after a load looked at closely.
        loads_max: loads after which a process gives way to a fresh one.
        explain: find out where a load hangs.
        look: how closely a load is looked at, where that is asked for.
    """

    load_timeout_s: float
    spares: int = 1
    guest_run_s: float = GUEST_RUN_S
    loads_max: int = LOADS_MAX
    explain: bool = True
    look: Look = Look.FULL


class LoadvmExecutor:
    """A live QEMU (:class:`loadfuzz.abc.Executor`); made by :func:`loadvm_executor`.

    Attributes:
        generation: of the process that runs now; 1 for the first.  It goes up with
            :meth:`renew`, and at the beginning of an :meth:`execute` that finds that the
            process has become too old: what the loads before had left is then gone.
        clean: what the machine saved of itself when it had just been started.
        remarks: what people should know of how it goes about it.
    """

    __slots__ = (
        "_live", "_manners", "_pace", "_plan", "_rss", "_spares", "_starter", "_usable",
        "clean", "generation", "remarks",
    )  # fmt: skip

    def __init__(
        self, plan: Plan, starter: Starter, manners: Manners, remarks: tuple[str, ...] = ()
    ) -> None:
        self.generation = 0
        self.remarks = remarks
        self.clean = plan.clean
        self._plan = plan
        self._starter = starter
        self._manners = manners
        self._pace = Pace()
        self._live: Instance | None = None
        self._spares: list[Instance] = []
        self._usable = False
        self._rss = 0

    @property
    def pid(self) -> int | None:
        """Process id of the QEMU that loads, ``None`` between two."""
        return None if self._live is None else self._live.process.pid

    @property
    def due(self) -> bool:
        """Whether the next :meth:`execute` begins with :meth:`renew`, since the process has
        loaded or logged enough, or has grown."""
        live = self._live
        if live is None or not self._usable:
            return False
        if live.loads >= self._manners.loads_max or live.log.position > LOG_POSITION_MAX:
            return True
        if live.loads % VITALS_EVERY or not live.loads:
            return False
        for spare in self._spares:
            spare.settle()
        return resident_bytes(live.process.pid) > self._rss + GROWTH_MAX

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """Load a stream, in the state that the loads before have left.

        Looked at closely, an accepted stream's guest runs for some milliseconds, and is
        saved, loaded and deleted again; the events tell of sections and fields, and of
        what QEMU refused then (``reload refused: TEXT``).  A failure there begins its message with
        what was being done.

        Cancellation leaves a process that is only good for :meth:`renew`.

        Raises:
            InfraError: as :meth:`loadfuzz.abc.Executor.execute`.
            UsageError: the stream is longer than the slot, or QEMU cannot be started anew.
        """
        if self.due:
            await self.renew()
        live = self._ready()
        live.image.write(INPUT, stream)
        execution = await (self._run_closely(live, _LOAD) if closely else self._run(live, _LOAD))
        if is_silent(execution) and self._plan.spec.address_space_mb is not None:
            return await self._reconsider(stream, execution)
        return execution

    async def sane(self, *, closely: bool = False) -> Execution:
        """Load what the machine saved of itself at first: a machine that is well takes it.

        Args:
            closely: as of :meth:`execute`.

        Raises:
            InfraError: as :meth:`execute`.
        """
        run = self._run_closely if closely else self._run
        return await run(self._ready(), _LOAD_CLEAN)

    async def renew(self) -> None:
        """A fresh process in place of this one.

        Cancellation leaves no process or a fresh one; calling it again puts it right.

        Raises:
            UsageError: QEMU cannot be started so.
            InfraError: it cannot be started any more, or the old one does not die.
        """
        self._usable = False
        old, self._live = self._live, None
        if old is not None:
            await old.end()
        await self._starter.freshen()
        for left in reversed(range(_START_TRIES)):
            fresh = self._spares.pop(0) if self._spares and left else self._start()
            try:
                await fresh.ready()
            except (UsageError, InfraError):
                await fresh.end()
                if not left:
                    raise
                if left == 1:
                    self._starter.end()  # a copy may fail where a process would not
            except BaseException:
                await fresh.end()
                raise
            else:
                break
        fresh.process.news()  # what it said when it came up is no last word
        self._live = fresh
        self._rss = resident_bytes(fresh.process.pid)
        self.generation += 1
        self._usable = True
        while len(self._spares) < self._manners.spares:
            self._spares.append(self._start())

    async def close(self) -> None:
        """End all processes."""
        self._usable = False
        every = [*self._spares, *([self._live] if self._live is not None else [])]
        self._spares, self._live = [], None
        await end_all(every)

    def _start(self) -> Instance:
        return Instance.start(self._plan, self._starter)

    def _ready(self) -> Instance:
        if self._live is None or not self._usable:
            raise InfraError("this QEMU has failed and was not renewed; call renew() first")
        return self._live

    # -- one load ------------------------------------------------------------------------------

    async def _run(self, live: Instance, commands: Sequence[bytes]) -> Execution:
        """Load what is in a slot, and nothing more."""
        self._usable = False
        live.loads += 1
        loop = asyncio.get_running_loop()
        cpu_before_s, before_s = live.clock.now_s(), loop.time()
        try:
            answers = await self._ask(live, commands, "")
        except FailedError as failed:
            return await self._judge(live, failed, cpu_before_s)
        self._pace.took(loop.time() - before_s)
        execution = _verdict(answers[0], live.clock.now_s() - cpu_before_s)
        live.process.news()
        self._usable = True
        return execution

    async def _run_closely(self, live: Instance, commands: Sequence[bytes]) -> Execution:
        """Load what is in a slot with trace events, and go on with it if it is accepted."""
        self._usable = False
        live.loads += 1
        events: list[str] = []
        cpu_before_s = live.clock.now_s()

        async def speak(commands: Sequence[bytes], doing: str) -> list[Reply]:
            return await self._ask(live, commands, doing)

        try:
            await speak([tracelog.SWITCH_ON], "")
            answers = await speak([*commands, tracelog.SWITCH_OFF], "")
            execution = _verdict(answers[0], live.clock.now_s() - cpu_before_s)
            events += [*live.log.take(), *execution.events]
            if execution.kind is ExitKind.ACCEPTED:
                events += [NOT_RUN] if self._manners.look is Look.STILL else []
                events += await self._look_closer(speak)
        except FailedError as failed:
            execution = await self._judge(live, failed, cpu_before_s)
            events += live.log.take()
        else:
            live.process.news()
            self._usable = True
        return replace(execution, events=tuple(events))

    async def _judge(self, live: Instance, failed: FailedError, cpu_before_s: float) -> Execution:
        """The verdict on one that is good for nothing more, and ends here: whoever has this
        executor may not need another one for a while, and a loop would go on all that time."""
        try:
            return await judge_failure(live, failed, cpu_before_s, explain=self._manners.explain)
        finally:
            live.process.kill()

    async def _look_closer(self, speak: Ask) -> list[str]:
        match self._manners.look:
            case Look.FULL:
                return await look_closer(speak, self._manners.guest_run_s)
            case Look.STILL:
                return await look_closer(speak, None)
            case Look.NONE:
                return []

    async def _reconsider(self, stream: bytes, execution: Execution) -> Execution:
        """The verdict on a QEMU that ended without a word: was there memory left?"""
        try:
            fresh = self._spares.pop(0) if self._spares else self._start()
            try:
                death = await without_memory(fresh, stream)
            finally:
                await fresh.end()
        except (UsageError, InfraError):
            return execution  # nobody can be asked again, and what is known stays
        if death is None:
            return execution
        return replace(execution, kind=death.kind, escape=death.escape)

    async def _ask(self, live: Instance, commands: Sequence[bytes], doing: str) -> list[Reply]:
        limit_s, first_look_s = self._manners.load_timeout_s, self._pace.deadline_s
        return await ask(live, commands, doing, limit_s=limit_s, first_look_s=first_look_s)


def _verdict(reply: Reply, cpu_s: float) -> Execution:
    if reply.error:
        raise InfraError(f"QEMU does not know human-monitor-command: {reply.error}")
    judged = judge_reply(reply.text)
    if judged.refusal is not None:
        return Execution(ExitKind.REJECTED, judged.depth, refusal=judged.refusal, cpu_s=cpu_s)
    events = tuple(f"said {line}" for line in judged.said)
    return Execution(ExitKind.ACCEPTED, judged.depth, cpu_s=cpu_s, events=events)


@contextlib.asynccontextmanager
async def loadvm_executor(
    spec: MachineSpec,
    folder: Path,
    load_timeout_s: float,
    *,
    spares: int = 1,
    guest_run_s: float = GUEST_RUN_S,
    loads_max: int = LOADS_MAX,
    explain: bool = True,
    copies: bool = False,
) -> AsyncIterator[LoadvmExecutor]:
    """A QEMU that loads, for the duration of an ``async with`` block.

    However the block is left, no process and no file of it remains.  From the main thread:
    the kernel ties a QEMU to the thread that started it.

    Args:
        spec: the machine; its address space should have a limit.
        folder: for images where shared memory has no room; it exists, and is nobody else's.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        spares: processes started ahead, 0 to :data:`SPARES_MAX`: one, and a second where
            loads kill or hang one after the other.
        guest_run_s: wall seconds that the guest runs after a load looked at closely.
        loads_max: loads after which a process gives way to a fresh one.
        explain: find out where a load hangs, which takes a second or two.
        copies: processes may be copies of one another, see :mod:`loadfuzz.qemu.template`.

    Raises:
        UsageError: QEMU cannot be started so, its machine cannot be saved, or it does not load
            what it saved.
        InfraError: something of ours failed.
    """
    if not 0 <= spares <= SPARES_MAX:
        raise UsageError(f"{spares} spare processes are not possible; use 0 to {SPARES_MAX}")
    manners = Manners(load_timeout_s, spares, guest_run_s, loads_max, explain)
    clean = await capture(spec)
    capacity = max(STREAM_SIZE_MAX, len(clean)) + ROOM
    # Beside the slots there may be a state saved again, of the size of the clean one.
    size = (1 + spares) * (capacity + 2 * len(clean) + (spec.memory_mb << 20))
    plan = Plan(spec, place_for(folder, size), clean, capacity)
    sweep(plan.base)
    starter = plan.starter()
    try:
        if copies:
            await starter.prepare()
        executor = await _rehearsed(plan, starter, manners)
        try:
            await executor.renew()
            yield executor
        finally:
            await executor.close()
    finally:
        starter.end()


async def _rehearsed(plan: Plan, starter: Starter, manners: Manners) -> LoadvmExecutor:
    """An executor that looks as closely as goes well with what the machine saved of itself.

    Raises:
        UsageError: the machine does not load that.
    """
    remarks: tuple[str, ...] = ()
    why = ""
    for look in Look:  # the closest first
        if why:
            remarks = (remark(plan.spec, why, look),)
        manners = replace(manners, look=look)
        trial = LoadvmExecutor(plan, starter, replace(manners, spares=0, explain=False))
        try:
            failed = await rehearse(trial, plan.spec, look)
        finally:
            await trial.close()
        if not failed:
            break
        why = why or failed
    return LoadvmExecutor(plan, starter, manners, remarks)
