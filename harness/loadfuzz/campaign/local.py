"""Worker processes of this machine, which share the campaign's folder.

Theory of operation.  One task per worker in one TaskGroup.  A worker's lines are
handled as they are read, so a slow disk slows the workers down instead of
filling memory.  A worker's batch is all that is left of its share of the budget:
starting one takes seconds, and its corpus is the folder, so there is nothing to
gain by shorter ones.  A worker that does not end by itself when the time is up
is asked to (SIGTERM), then ended (SIGKILL).  One that says nothing for
:data:`SILENCE_MAX_S` is ended too, and counts as having died.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

import msgspec

from loadfuzz import codec, events
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.campaign.crew import DEADLINE_GRACE_S, Course
from loadfuzz.campaign.deaths import Death, Deaths, Describe, describe
from loadfuzz.campaign.listening import Listener
from loadfuzz.campaign.preparation import Prepared
from loadfuzz.children import Child, Exit, spawn
from loadfuzz.engines.last_input import forget
from loadfuzz.errors import InfraError
from loadfuzz.rng import Rng
from loadfuzz.storage import write_atomic

OVERTIME_S: Final = 0.5
"""Time a worker has to end by itself after the deadline, before it is asked to: workers that
were ready later would go on for longer."""
SILENCE_MAX_S: Final = 60.0
"""Longest silence of a worker; they report twice a second, but instrumenting a large loader
on a busy machine takes a while."""
RESTARTS_MAX: Final = 1000
"""Deaths of one worker that are made good: a loader that takes its process along once in a
while is what fuzzing is for, one that always does is not worth more."""
BARREN_MAX: Final = 3
"""Deaths in a row without a single execution: then it is not the input that kills it."""
REST_MIN_S: Final = 0.2
"""With less time left than this no worker is started any more."""

_DONE: Final = frozenset({"budget", "stopped"})
"""Reasons of a worker that did what it was told."""


@dataclass(slots=True)
class _Slot:
    """One worker's place, over all its restarts."""

    index: int
    listener: Listener
    child: Child | None = None
    patience: asyncio.Timeout | None = None
    ended: events.WorkerEnded | None = None
    silent: bool = False
    overdue: bool = False
    starts: int = 0
    barren: int = 0


class LocalCrew:
    """A :class:`~loadfuzz.campaign.crew.Crew` of processes.

    Args:
        course: the campaign.
        describe: makes a finding of a worker's death.
        worker: command that starts a worker; the batch file's path is appended.
    """

    def __init__(
        self,
        course: Course,
        *,
        describe: Describe = describe,
        worker: Sequence[str] = (sys.executable, "-m", "loadfuzz.engines.worker"),
    ) -> None:
        self._course = course
        self._tell = course.tell
        self._totals = course.totals
        self._target = course.settings.target
        self._deaths = Deaths(course.folder, course.totals, course.tell, describe)
        self._worker_command = worker
        self._slots = [
            _Slot(index, Listener(index, course.folder.path, course.tell))
            for index in range(course.settings.workers)
        ]
        self._given_up: list[str] = []

    async def __aenter__(self) -> int:
        """There is nothing to prepare."""
        return len(self._slots)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nor to let go of: no worker outlives its task."""

    async def work(self, prepared: Prepared) -> None:
        """See :meth:`loadfuzz.campaign.crew.Crew.work`."""
        self._target = prepared.target
        async with asyncio.TaskGroup() as workers:
            for slot in self._slots:
                workers.create_task(self._keep_worker(slot, prepared.engine))
        if self._given_up:
            raise InfraError(self._given_up[0])

    def stop(self, grace_s: float) -> None:
        """Ask all workers to stop, and end those that have not after ``grace_s`` seconds."""
        until = asyncio.get_running_loop().time() + grace_s
        for slot in self._slots:
            if slot.child is not None:
                slot.child.terminate()
            if slot.patience is not None and not slot.patience.expired():
                slot.patience.reschedule(until)

    def kill(self) -> None:
        """End all workers."""
        for slot in self._slots:
            if slot.child is not None:
                slot.child.kill()

    async def _keep_worker(self, slot: _Slot, engine: Engine) -> None:
        """Have a worker run in ``slot`` until the budget is used up."""
        batch = self._next_batch(slot, engine)
        while batch is not None:
            before = self._totals.executions_of(slot.index)
            end = await self._run_worker(slot, batch)
            executions = self._totals.executions_of(slot.index) - before
            if slot.ended is not None and slot.ended.reason in _DONE:
                self._tell(msgspec.structs.replace(slot.ended, restarted=False))
                return
            self._course.check_disk()
            if self._course.stopping or slot.overdue:
                # It was we who ended it, so only a load that never ends is to blame.
                if (
                    not self._course.stopping
                    and slot.ended is None
                    and end.signal == signal.SIGKILL
                ):
                    await self._deaths.handle(Death(batch, end, False, slot.starts, overdue=True))
                self._tell(events.WorkerEnded(slot.index, executions, "stopped", restarted=False))
                return
            begun, better = 0, False
            if slot.ended is None:
                # One that could still say why it ends was not taken along by a load.
                death = Death(batch, end, slot.silent, slot.starts)
                begun, better = await self._deaths.handle(death)
            got_on = executions > 0 or better
            # It may have died before it could report what it had done.
            executions = max(executions, begun)
            reason = _reason_of(slot, end)
            slot.barren = 0 if got_on else slot.barren + 1
            again = slot.barren < BARREN_MAX and slot.starts <= RESTARTS_MAX
            batch = self._next_batch(slot, engine, before + executions)
            restarted = again and batch is not None
            self._tell(events.WorkerEnded(slot.index, executions, reason, restarted=restarted))
            if not again:
                self._given_up.append(
                    f"worker {slot.index} does not get going: {reason}"
                    + (f"\n{end.stderr.strip()}" if end.stderr.strip() else "")
                )
                return

    def _next_batch(self, slot: _Slot, engine: Engine, done: int = 0) -> Batch | None:
        """What is left to do for a worker after ``done`` executions, ``None`` when nothing."""
        if self._course.stopping:
            return None
        settings = self._course.settings
        seconds = executions = None
        if settings.seconds is not None:
            seconds = settings.seconds
            if self._course.deadline is not None:
                seconds = self._course.deadline - asyncio.get_running_loop().time()
            if seconds < min(REST_MIN_S, settings.seconds):
                return None
        share = settings.share(slot.index)
        if share is not None:
            executions = share - done
            if executions <= 0:
                return None
        # Another seed after a restart: the same one would lead to the same death.
        name = f"worker-{slot.index}" + (f"-{slot.starts}" if slot.starts else "")
        return Batch(
            target=self._target,
            engine=engine,
            out=str(self._course.folder.path),
            worker=slot.index,
            seed=Rng(settings.seed).child(name).seed,
            seconds=seconds,
            executions=executions,
            load_timeout_s=settings.load_timeout_s,
            dear_share=settings.dear_share,
            operators=settings.operators,
            ignore=settings.ignore,
        )

    async def _run_worker(self, slot: _Slot, batch: Batch) -> Exit:
        path = self._course.folder.worker(slot.index) / "batch.json"
        write_atomic(path, codec.encode_pretty(batch), durable=False)
        forget(self._course.folder.path, slot.index)
        slot.starts += 1
        slot.ended = None
        slot.silent = False
        command = [*self._worker_command, str(path)]
        async with spawn(command, partial(self._hear, slot)) as child:
            slot.child = child
            try:
                return await self._outlast(slot, child)
            finally:
                slot.child = None
                if child.lines_too_long:
                    self._tell(events.MachineryWarning(
                        f"worker {slot.index} sent lines longer than any event "
                        f"({child.lines_too_long}), which were not read"
                    ))  # fmt: skip

    async def _outlast(self, slot: _Slot, child: Child) -> Exit:
        """Wait for a worker's end, or bring it about when it is time."""
        try:
            async with asyncio.timeout(None) as slot.patience:
                self._be_patient(slot)
                return await child.wait()
        except TimeoutError:
            pass
        finally:
            slot.patience = None
        if self._course.stopping:
            return await child.stop(0.0)
        now = asyncio.get_running_loop().time()
        if self._course.deadline is not None and now >= self._course.deadline:
            slot.overdue = True
            return await child.stop(DEADLINE_GRACE_S)
        slot.silent = True
        return await child.stop(0.0)

    def _be_patient(self, slot: _Slot) -> None:
        if self._course.stopping or slot.patience is None or slot.patience.expired():
            return
        until = asyncio.get_running_loop().time() + SILENCE_MAX_S
        if self._course.deadline is not None:
            until = min(until, self._course.deadline + OVERTIME_S)
        slot.patience.reschedule(until)

    def _hear(self, slot: _Slot, line: bytes) -> None:
        """One line of a worker."""
        self._be_patient(slot)
        event = slot.listener.event_of(line)
        match event:
            case None:
                return
            case events.WorkerStarted():
                if self._course.begin():
                    for other in self._slots:
                        self._be_patient(other)
            case events.WorkerEnded():
                slot.ended = event
                return
            case _:
                pass
        self._tell(event)


def _reason_of(slot: _Slot, end: Exit) -> str:
    """Why a worker is gone, in a phrase."""
    if slot.ended is not None:
        return slot.ended.reason
    if slot.silent:
        return f"said nothing for {SILENCE_MAX_S:.0f} s and was ended"
    return f"died: {end}"
