"""Runs a campaign: has it prepared, has a crew do the work, ends it on time, and tells
everybody how it goes.

Theory of operation.  The time budget begins when the first worker is ready: starting
them takes seconds, and a short run is to fuzz as long as it was asked to.  Then there is
one deadline.  Who does the work, and how it is ended, is the crew's
(:mod:`loadfuzz.campaign.crew`); no process is left behind.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol, runtime_checkable

from loadfuzz import events
from loadfuzz.abc import Reporter
from loadfuzz.campaign.crew import DEADLINE_GRACE_S, STOP_GRACE_S, Course, Crew
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.local import LocalCrew
from loadfuzz.campaign.preparation import Preparation, Prepared
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.errors import InfraError, LoadfuzzError
from loadfuzz.events import Event
from loadfuzz.storage import explain

TICK_S: Final = 0.5
"""How often the screen hears that time has passed."""
DISK_FREE_MIN: Final = 1 << 20
"""With fewer bytes free than this, a worker that died did so for want of disk."""


@runtime_checkable
class Ticking(Protocol):
    """A reporter that shows the time."""

    def tick(self) -> None:
        """Some time has passed."""


class Supervisor:
    """Runs one campaign; for one use. It is its crew's
    :class:`~loadfuzz.campaign.crew.Course`.

    Args:
        settings: what to do.
        folder: where, locked by the caller.
        reporters: hear every event, in this order.
        totals: adds them up; hears them before the reporters.
        crew: makes who does the work.
        clock: tells how long it took.
        prepared: what it starts from, where that is known; otherwise it is found out.
        prepare: command that finds out; the request file's path is appended.
    """

    def __init__(
        self,
        settings: Settings,
        folder: CampaignFolder,
        reporters: Sequence[Reporter],
        totals: Totals,
        *,
        crew: Callable[[Course], Crew] = LocalCrew,
        clock: Clock | None = None,
        prepared: Prepared | None = None,
        prepare: Sequence[str] = (sys.executable, "-m", "loadfuzz.campaign.prepare"),
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.totals = totals
        self._reporters = reporters
        self._clock = clock or SystemClock()
        self._prepared = prepared
        self._prepare_command = prepare
        self._crew = crew(self)
        self._preparing: asyncio.Timeout | None = None
        self._stopping = False
        self._deadline: float | None = None
        self._began_s: float | None = None
        self._enough = ""
        self._news_s = 0.0

    @property
    def stopping(self) -> bool:
        """See :class:`~loadfuzz.campaign.crew.Course`."""
        return self._stopping

    @property
    def deadline(self) -> float | None:
        """See :class:`~loadfuzz.campaign.crew.Course`."""
        return self._deadline

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
            reason = self._enough or ("interrupted" if self._stopping else "budget")
        except BaseExceptionGroup as group:
            raise _most_telling(group) from group
        except OSError as error:
            raise explain(error, f"writing in {self.folder.shown}") from error
        finally:
            self._finish(reason)

    def stop(self) -> None:
        """Ask the crew to stop; a second call ends it at once."""
        if self._stopping:
            self._crew.kill()
            return
        self._stopping = True
        if self._preparing is not None:
            self._preparing.reschedule(asyncio.get_running_loop().time())
        self._crew.stop(DEADLINE_GRACE_S if self._enough else STOP_GRACE_S)

    async def _run_phases(self) -> None:
        prepared = self._prepared or await self._prepare()
        if prepared is None:
            return
        settings = self.settings
        async with self._crew as workers:
            self.tell(events.CampaignStarted(
                target=settings.target, engine=prepared.engine.value, seed=settings.seed,
                workers=workers, out=str(self.folder.shown), seeds=prepared.seeds,
                time_s=settings.seconds, executions=settings.executions,
            ))  # fmt: skip
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                try:
                    await self._crew.work(prepared)
                finally:
                    ticker.cancel()

    async def _prepare(self) -> Prepared | None:
        preparation = Preparation(self.settings, self.folder, self.tell, self._prepare_command)
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

    def begin(self) -> bool:
        """See :class:`~loadfuzz.campaign.crew.Course`."""
        if self._began_s is not None:
            return False
        self._began_s = self._clock.now_s()
        now = asyncio.get_running_loop().time()
        if self.settings.seconds is not None:
            self._deadline = now + self.settings.seconds
        if self.settings.stale_s is not None:
            self._news_s = now
            self._end_when_stale(self.settings.stale_s)
        return True

    def tell(self, event: Event) -> None:
        """See :class:`~loadfuzz.campaign.crew.Course`."""
        self.totals.add(event)
        for reporter in self._reporters:
            reporter.handle(event)
        if isinstance(event, events.Progress) and self.totals.taking_in:
            self._news_s = asyncio.get_running_loop().time()
        if isinstance(event, (events.CorpusAdded, events.FindingAnnounced)):
            self._news_s = asyncio.get_running_loop().time()
            if self.settings.first_finding and isinstance(event, events.FindingAnnounced):
                self._end("first-finding")

    def check_disk(self) -> None:
        """See :class:`~loadfuzz.campaign.crew.Course`."""
        room = os.statvfs(self.folder.path)
        if room.f_bavail * room.f_frsize < DISK_FREE_MIN:
            raise InfraError(
                f"the disk under {self.folder.shown} is full; make room, or choose a folder on "
                "another disk with --out. Findings so far are kept"
            )

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

    def _finish(self, reason: str) -> None:
        """The last event, and the end of all reporters, whatever happened before."""
        seconds = 0.0 if self._began_s is None else self._clock.now_s() - self._began_s
        end = events.CampaignEnded(
            executions=self.totals.executions, seconds=seconds, corpus=self.totals.corpus,
            findings=len(self.totals.findings), reason=reason,
        )  # fmt: skip
        self.totals.add(end)
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
