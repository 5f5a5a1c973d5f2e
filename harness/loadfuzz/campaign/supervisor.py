"""Runs a campaign: starts workers, hears them, replaces those that die, and ends
on time with no process left behind.

Theory of operation.  One task per worker in one TaskGroup.  A worker's lines are
handled as they are read, so a slow disk slows the workers down instead of
filling memory.  The time budget begins when the first worker is ready: starting
them takes seconds, and a short run is to fuzz as long as it was asked to.  Then
there is one deadline; a worker that does not end by itself is asked to
(SIGTERM), then ended (SIGKILL).  A worker that says nothing for
:data:`SILENCE_MAX_S` is ended too, and counts as having died.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, runtime_checkable

import msgspec

from loadfuzz import codec, events
from loadfuzz.abc import Reporter
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.campaign.deaths import Death, Deaths, Describe, describe
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.listening import Listener
from loadfuzz.campaign.preparation import Preparation, Prepared
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.totals import Totals
from loadfuzz.children import Child, Exit, spawn
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.engines.last_input import forget
from loadfuzz.errors import InfraError, LoadfuzzError
from loadfuzz.events import Event
from loadfuzz.rng import Rng
from loadfuzz.storage import explain, write_atomic

STOP_GRACE_S: Final = 2.0
"""Time a worker has to end after SIGTERM when somebody wants to stop: one execution with all
its oracles; a person does not want to wait longer."""
DEADLINE_GRACE_S: Final = 10.0
"""The same when the time is up: it may be confirming a hang, which takes seconds, and that
finding is wanted."""
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
TICK_S: Final = 0.5
"""How often the screen hears that time has passed."""
REST_MIN_S: Final = 0.2
"""With less time left than this no worker is started any more."""
DISK_FREE_MIN: Final = 1 << 20
"""With fewer bytes free than this, a worker that died did so for want of disk."""

_DONE: Final = frozenset({"budget", "stopped"})
"""Reasons of a worker that did what it was told."""


@runtime_checkable
class Ticking(Protocol):
    """A reporter that shows the time."""

    def tick(self) -> None:
        """Some time has passed."""


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


class Supervisor:
    """Runs one campaign; for one use.

    Args:
        settings: what to do.
        folder: where, locked by the caller.
        reporters: hear every event, in this order.
        totals: adds them up; hears them before the reporters.
        describe: makes a finding of a worker's death.
        clock: tells how long it took.
        worker: command that starts a worker; the batch file's path is appended.
        prepare: command that prepares; the request file's path is appended.
    """

    def __init__(
        self,
        settings: Settings,
        folder: CampaignFolder,
        reporters: Sequence[Reporter],
        totals: Totals,
        *,
        describe: Describe = describe,
        clock: Clock | None = None,
        worker: Sequence[str] = (sys.executable, "-m", "loadfuzz.engines.worker"),
        prepare: Sequence[str] = (sys.executable, "-m", "loadfuzz.campaign.prepare"),
    ) -> None:
        self._settings = settings
        self._target = settings.target
        self._folder = folder
        self._reporters = reporters
        self._totals = totals
        self._deaths = Deaths(folder, totals, self._tell, describe)
        self._clock = clock or SystemClock()
        self._worker_command = worker
        self._prepare_command = prepare
        self._slots = [
            _Slot(index, Listener(index, folder.path, self._tell))
            for index in range(settings.workers)
        ]
        self._preparing: asyncio.Timeout | None = None
        self._stopping = False
        self._deadline: float | None = None
        self._began_s: float | None = None
        self._given_up: list[str] = []
        self._enough = ""
        self._news_s = 0.0

    @property
    def interrupted(self) -> bool:
        """Somebody asked for the end before the budget was used up."""
        return self._stopping and not self._enough

    async def run(self) -> None:
        """Run the campaign to its end; handles SIGINT, SIGTERM and SIGHUP meanwhile.

        Cancellation kills the workers; what they found is on disk.

        Raises:
            UsageError: there is nothing to start from.
            InfraError: workers, disk or target let us down; findings are kept.
        """
        reason = "failed"
        try:
            with self._signals():
                for reporter in self._reporters:
                    reporter.start()
                await self._run_phases()
            if self._given_up:
                raise InfraError(self._given_up[0])
            reason = self._enough or ("interrupted" if self._stopping else "budget")
        except BaseExceptionGroup as group:
            raise _most_telling(group) from group
        except OSError as error:
            raise explain(error, f"writing in {self._folder.shown}") from error
        finally:
            self._finish(reason)

    def stop(self) -> None:
        """Ask all workers to stop; a second call ends them at once."""
        if self._stopping:
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.kill()
            return
        self._stopping = True
        now = asyncio.get_running_loop().time()
        if self._preparing is not None:
            self._preparing.reschedule(now)
        for slot in self._slots:
            if slot.child is not None:
                slot.child.terminate()
            if slot.patience is not None and not slot.patience.expired():
                grace_s = DEADLINE_GRACE_S if self._enough else STOP_GRACE_S
                slot.patience.reschedule(now + grace_s)

    async def _run_phases(self) -> None:
        prepared = await self._prepare()
        if prepared is None:
            return
        self._target = prepared.target
        settings = self._settings
        self._tell(events.CampaignStarted(
            target=settings.target, engine=prepared.engine.value, seed=settings.seed,
            workers=settings.workers, out=str(self._folder.shown), seeds=prepared.seeds,
            time_s=settings.seconds, executions=settings.executions,
        ))  # fmt: skip
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self._tick())
            try:
                async with asyncio.TaskGroup() as workers:
                    for slot in self._slots:
                        workers.create_task(self._keep_worker(slot, prepared.engine))
            finally:
                ticker.cancel()

    async def _prepare(self) -> Prepared | None:
        preparation = Preparation(self._settings, self._folder, self._tell, self._prepare_command)
        try:
            async with asyncio.timeout(None) as self._preparing:
                return await preparation.run()
        except TimeoutError:
            return None
        finally:
            self._preparing = None

    async def _tick(self) -> None:
        ticking = [reporter for reporter in self._reporters if isinstance(reporter, Ticking)]
        while ticking:
            await asyncio.sleep(TICK_S)
            for reporter in ticking:
                reporter.tick()

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
            self._check_disk()
            if self._stopping or slot.overdue:
                # It was we who ended it, so only a load that never ends is to blame.
                if not self._stopping and slot.ended is None and end.signal == signal.SIGKILL:
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
        if self._stopping:
            return None
        settings = self._settings
        seconds = executions = None
        if settings.seconds is not None:
            seconds = settings.seconds
            if self._deadline is not None:
                seconds = self._deadline - asyncio.get_running_loop().time()
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
            out=str(self._folder.path),
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
        path = self._folder.worker(slot.index) / "batch.json"
        write_atomic(path, codec.encode_pretty(batch), durable=False)
        forget(self._folder.path, slot.index)
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
        if self._stopping:
            return await child.stop(0.0)
        now = asyncio.get_running_loop().time()
        if self._deadline is not None and now >= self._deadline:
            slot.overdue = True
            return await child.stop(DEADLINE_GRACE_S)
        slot.silent = True
        return await child.stop(0.0)

    def _be_patient(self, slot: _Slot) -> None:
        if self._stopping or slot.patience is None or slot.patience.expired():
            return
        until = asyncio.get_running_loop().time() + SILENCE_MAX_S
        if self._deadline is not None:
            until = min(until, self._deadline + OVERTIME_S)
        slot.patience.reschedule(until)

    def _hear(self, slot: _Slot, line: bytes) -> None:
        """One line of a worker."""
        self._be_patient(slot)
        event = slot.listener.event_of(line)
        match event:
            case None:
                return
            case events.WorkerStarted():
                self._begin()
            case events.WorkerEnded():
                slot.ended = event
                return
            case _:
                pass
        self._tell(event)

    def _begin(self) -> None:
        """The first worker is ready: from now on time counts."""
        if self._began_s is not None:
            return
        self._began_s = self._clock.now_s()
        if self._settings.seconds is not None:
            now = asyncio.get_running_loop().time()
            self._deadline = now + self._settings.seconds
            for slot in self._slots:
                self._be_patient(slot)
        if self._settings.stale_s is not None:
            self._news_s = asyncio.get_running_loop().time()
            self._end_when_stale(self._settings.stale_s)

    def _end_when_stale(self, stale_s: float) -> None:
        """End if nothing was new for so long; else look again when that could be."""
        loop = asyncio.get_running_loop()
        due = self._news_s + stale_s
        if loop.time() >= due:
            self._end("stale")
        elif not self._stopping:
            loop.call_at(due, self._end_when_stale, stale_s)

    def _end(self, reason: str) -> None:
        """End the campaign, since it has done what it was started for."""
        if not self._stopping:
            self._enough = reason
            self.stop()

    def _check_disk(self) -> None:
        """Say so when it was the disk that a worker died of.

        Raises:
            InfraError: it is full.
        """
        room = os.statvfs(self._folder.path)
        if room.f_bavail * room.f_frsize < DISK_FREE_MIN:
            raise InfraError(
                f"the disk under {self._folder.shown} is full; make room, or choose a folder on "
                "another disk with --out. Findings so far are kept"
            )

    def _tell(self, event: Event) -> None:
        self._totals.add(event)
        for reporter in self._reporters:
            reporter.handle(event)
        if isinstance(event, events.Progress) and self._totals.taking_in:
            self._news_s = asyncio.get_running_loop().time()
        if isinstance(event, (events.CorpusAdded, events.FindingAnnounced)):
            self._news_s = asyncio.get_running_loop().time()
            if self._settings.first_finding and isinstance(event, events.FindingAnnounced):
                self._end("first-finding")

    def _finish(self, reason: str) -> None:
        """The last event, and the end of all reporters, whatever happened before."""
        seconds = 0.0 if self._began_s is None else self._clock.now_s() - self._began_s
        end = events.CampaignEnded(
            executions=self._totals.executions, seconds=seconds, corpus=self._totals.corpus,
            findings=len(self._totals.findings), reason=reason,
        )  # fmt: skip
        self._totals.add(end)
        for reporter in self._reporters:
            # A full disk was reported by whoever met it first; the others still want to end.
            with suppress(OSError):
                try:
                    reporter.handle(end)
                finally:
                    reporter.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _reason_of(slot: _Slot, end: Exit) -> str:
    """Why a worker is gone, in a phrase."""
    if slot.ended is not None:
        return slot.ended.reason
    if slot.silent:
        return f"said nothing for {SILENCE_MAX_S:.0f} s and was ended"
    return f"died: {end}"


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several errors at once, the one that a person can do something about."""
    for kind in (LoadfuzzError, OSError):
        found = group.subgroup(kind)
        while found is not None:
            inner = found.exceptions[0]
            if not isinstance(inner, BaseExceptionGroup):
                if isinstance(inner, OSError):
                    return explain(inner, "writing in the campaign's folder")
                return inner
            found = inner
    return group
