"""Batches on a Dask cluster, which share nothing with the campaign but what they send.

Theory of operation.  As many batches are under way as the cluster has threads, or slots
for such loaders (:class:`loadfuzz.abc.NeedsSlots`), whoever comes and goes.  Each gets some
streams of the corpus and the signatures that are known; it lasts some seconds at first, so
that what is new gets around, and longer later, when that costs more than it brings.  A batch
whose machine is lost is run again by Dask: its streams and seed are the same, and what it
sends a second time is known by its content.  What comes back is run here before it is
believed (:mod:`loadfuzz.campaign.admission`), one at a time.

The numbers of each batch count for one of the campaign's *lanes*, which take the place of
its workers in every report.
"""

import asyncio
import dataclasses
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Final

import msgspec

from loadfuzz import codec, events
from loadfuzz.campaign.admission import Admission
from loadfuzz.campaign.admit import Answer
from loadfuzz.campaign.carrying import Seeds
from loadfuzz.campaign.crew import DEADLINE_GRACE_S, Course
from loadfuzz.campaign.dask_client import ParcelLostError, Scheduler
from loadfuzz.campaign.local_cluster import local_cluster
from loadfuzz.campaign.mailbox import Lane, Ledger, Mailbox
from loadfuzz.campaign.parcel import Finished, Kept, Parcel, decode_message
from loadfuzz.campaign.preparation import Prepared
from loadfuzz.campaign.settings import SEED_BITS
from loadfuzz.campaign.stock import Stock
from loadfuzz.engines.last_input import NAME as LAST_INPUT
from loadfuzz.errors import InfraError
from loadfuzz.fitting import split
from loadfuzz.rng import Rng
from loadfuzz.storage import CorruptEntryError, outsiders_of, write_atomic

LOCAL: Final = "local"
"""In place of an address: have a cluster of our own on this machine."""
LOOK_S: Final = 2.0
"""How often to look whether workers have come or gone."""
BATCH_MIN_S: Final = 10.0
BATCH_MAX_S: Final = 60.0
BATCH_GROWTH: Final = 1.5
"""Batches last from the first to the second, each generation so much longer than the last:
starting a worker takes a second or three, and what others find meanwhile is not known."""
BATCH_EXECUTIONS: Final = 5000
"""Where the budget is in executions, a batch has at most so many: some seconds of the reference,
so that a budget is shared by all who are there."""
REST_MIN_S: Final = 1.0
"""With less time left than this no batch is begun any more."""
LANES_MAX: Final = 1000
"""Batches under way at a time: as far as the simulation goes, since one process admits all that
they send."""
LOST_MAX: Final = 20
"""Batches in a row that come to nothing, after which the cluster is given up: a machine that
fails now and then has others between."""
ALONE_MAX_S: Final = 600.0
"""Longest time without any worker; queues of batch systems take minutes."""
STATS: Final = "cluster.json"
"""In the campaign's ``stats``: what the cluster cost."""


@dataclass(slots=True)
class _Trip:
    """A batch that is under way: with streams that were drawn, and seeds that were not."""

    number: int
    lane: Lane
    streams: list[str]
    seeds: list[str]
    executions: int


class ClusterCrew:
    """A :class:`~loadfuzz.campaign.crew.Crew` of whoever works for a Dask scheduler.

    Args:
        course: the campaign.
        address: of the scheduler; :data:`LOCAL` to have one here, with as many workers as the
            campaign is to have.
    """

    def __init__(self, course: Course, address: str) -> None:
        self._course = course
        self._tell = course.tell
        self._address = address
        self._stack = AsyncExitStack()
        self._stock = Stock()
        self._seeds = Seeds()
        self._rng = Rng(course.settings.seed).child("cluster")
        self._trips: dict[int, _Trip] = {}
        self._merging = 0
        self._free: list[Lane] = []
        self._lanes_made = 0
        self._numbers = 0
        self._given = 0
        self._lost_in_a_row = 0
        self._alone_since: float | None = None
        self._patience: asyncio.Timeout | None = None
        self._back = asyncio.Event()
        self._stopped = asyncio.Event()
        self.ledger = Ledger()
        self._mail = Mailbox(
            course, self.ledger, self._lane_of, lambda: len(self._stock), self._back
        )

    async def __aenter__(self) -> int:
        """Find the scheduler, and wait for a first worker."""
        try:
            async with asyncio.timeout(None) as self._patience, AsyncExitStack() as stack:
                address, workers = self._address, self._course.settings.workers
                if address == LOCAL:
                    address = await stack.enter_async_context(local_cluster(workers))
                self._scheduler = await stack.enter_async_context(
                    Scheduler(address, f"loadfuzz-{token_hex(6)}", self._mail.hear)
                )
                lanes = await self._count_lanes()
                self._stack = stack.pop_all()
        except TimeoutError:
            return 0  # somebody wants to stop
        finally:
            self._patience = None
        return max(lanes, workers) if self._address == LOCAL else lanes

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the cluster; what runs there for us is ended."""
        await self._stack.aclose()

    async def work(self, prepared: Prepared) -> None:
        """See :meth:`loadfuzz.campaign.crew.Crew.work`."""
        if self._course.stopping:
            return
        folder, settings = self._course.folder, self._course.settings
        outsiders = outsiders_of(folder.path).read()

        def known(answer: Answer) -> None:
            inside = outsiders is not None and answer.digest not in outsiders
            self._stock.add(answer, judged=inside)
            self._tell_trouble(answer)

        admission = Admission(prepared.target, folder.path, settings.load_timeout_s, known)
        for path in folder.path.glob("worker-*"):
            # What workers of this machine did is counted; lanes have no such files.
            (path / LAST_INPUT).unlink(missing_ok=True)
        try:
            # Also while the corpus is run, which may take a while.
            async with asyncio.timeout(None) as self._patience, admission:
                self._seeds = Seeds.of(folder)
                self._scheduler.slot = admission.slot
                self._course.begin()
                await self._run(prepared, admission)
        except TimeoutError:
            if not self._stopped.is_set():
                raise
        finally:
            self._patience = None
            write_atomic(
                folder.path / "stats" / STATS, codec.encode_pretty(self.ledger), durable=False
            )

    def stop(self, grace_s: float) -> None:
        """Ask all batches to stop."""
        self._hurry(asyncio.get_running_loop().time() + grace_s)

    def kill(self) -> None:
        """Wait for no batch any more; leaving the cluster ends them."""
        self._hurry(asyncio.get_running_loop().time())

    def _hurry(self, until: float) -> None:
        self._stopped.set()
        self._back.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(until)

    def _lane_of(self, number: int) -> Lane | None:
        """Where a batch is under way; ``None`` when it is not any more."""
        trip = self._trips.get(number)
        return None if trip is None else trip.lane

    async def _count_lanes(self) -> int:
        return min(await self._scheduler.capacity(), LANES_MAX)

    async def _run(self, prepared: Prepared, admission: Admission) -> None:
        """Keep every place of the cluster busy until the budget is used up."""
        async with asyncio.TaskGroup() as batches:
            timer = batches.create_task(self._end_in_time())
            while self._trips or self._merging or self._awaits_confirmation() or not self._over():
                if self._mail.failure is not None:
                    raise self._mail.failure
                lanes = await self._count_lanes()
                self._see_that_there_are_workers(lanes)
                if (announced := self._mail.next_to_confirm()) is not None:
                    batches.create_task(self._mail.confirm(announced))
                while len(self._trips) < lanes and (trip := self._next_trip()) is not None:
                    batches.create_task(self._travel(trip, prepared, admission))
                self.ledger.lanes = max(self.ledger.lanes, len(self._trips))
                self._back.clear()
                with suppress(TimeoutError):  # workers may have come
                    async with asyncio.timeout(LOOK_S):
                        await self._back.wait()
            timer.cancel()
        if self._mail.failure is not None:
            raise self._mail.failure

    def _see_that_there_are_workers(self, lanes: int) -> None:
        """Say so when nobody works, and give up after a while.

        Raises:
            InfraError: it has been a while.
        """
        now = asyncio.get_running_loop().time()
        which = "workers"
        if self._scheduler.slotted:
            which += f" that declare {self._scheduler.slot}"
        if lanes:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
            self._mail.warn(f"the cluster has no {which} any more; waiting for some to come")
        elif now - self._alone_since > ALONE_MAX_S:
            raise InfraError(
                f"the cluster has had no {which} for {ALONE_MAX_S:.0f} s; start some and run it "
                "again. Findings so far are kept"
            )

    def _awaits_confirmation(self) -> bool:
        return self._mail.confirms and not self._stopped.is_set()

    async def _end_in_time(self) -> None:
        """Have batches stop when the time is up, or when somebody says so."""
        deadline = self._course.deadline
        left_s = None
        if deadline is not None:
            # A batch ends by itself when it has used up its time.
            left_s = deadline - asyncio.get_running_loop().time() + REST_MIN_S
        try:
            async with asyncio.timeout(left_s):
                await self._stopped.wait()
        except TimeoutError:
            self.stop(DEADLINE_GRACE_S)
        await self._scheduler.stop_parcels()

    def _over(self) -> bool:
        settings = self._course.settings
        if self._course.stopping:
            return True
        if settings.executions is not None and self._given >= settings.executions:
            return True
        return self._seconds_left() < REST_MIN_S

    def _seconds_left(self) -> float:
        deadline = self._course.deadline
        if deadline is None:
            return float("inf")
        return deadline - asyncio.get_running_loop().time()

    def _next_trip(self) -> _Trip | None:
        if self._over():
            return None
        executions = self._course.settings.executions
        share = 0
        if executions is not None:
            share = min(BATCH_EXECUTIONS, executions - self._given)
            self._given += share
        if not self._free:
            self._free.append(Lane(self._lanes_made))
            self._lanes_made += 1
        lane = self._free.pop()
        number, self._numbers = self._numbers, self._numbers + 1
        drawn = self._stock.draw(self._rng)
        others = (digest for digest in self._seeds.carried if digest in self._stock)
        seeds = [digest for digest in others if digest not in drawn]
        trip = _Trip(number, lane, drawn, seeds, share)
        self._trips[number] = trip
        return trip

    def _parcel(self, trip: _Trip, prepared: Prepared) -> bytes:
        settings = self._course.settings
        generation = trip.number // max(self.ledger.lanes, 1)
        # The exponent is bounded: past some twenty it is all the same.
        grown = BATCH_MIN_S * BATCH_GROWTH ** min(generation, 20)
        seconds = max(min(grown, BATCH_MAX_S, self._seconds_left()), REST_MIN_S)
        name, machine = split(prepared.target)
        # What was not seen here may mask what is there: workers go on looking for it.
        known = (*settings.ignore, *self._course.totals.known, *self._mail.confirmed)
        streams = (*self._read(trip.streams), *self._read(trip.seeds))
        digests = [*trip.streams, *trip.seeds]
        return codec.encode(
            Parcel(
                number=trip.number,
                settings=dataclasses.replace(
                    settings,
                    target=name,
                    engine=prepared.engine,
                    seed=self._rng.child(f"batch-{trip.number}").bits(SEED_BITS),
                    workers=1,
                    seconds=seconds,
                    executions=trip.executions or None,
                    seeds=(),
                    stale_s=None,
                    first_finding=False,
                    ignore=tuple(dict.fromkeys(known)),
                ),
                engine=prepared.engine,
                machine=Path(machine).read_bytes() if machine else b"",
                streams=streams,
                outsiders=self._stock.outsiders(digests),
                seeds=tuple(digest for digest in digests if digest in self._seeds.known),
            )
        )

    def _read(self, digests: list[str]) -> tuple[bytes, ...]:
        """These streams, but for those that another shard has taken out, which leave the list."""
        corpus = self._course.folder.corpus
        streams: list[bytes] = []
        for digest in list(digests):
            try:
                streams.append(corpus.read(digest))
            except (FileNotFoundError, CorruptEntryError):
                digests.remove(digest)
        return tuple(streams)

    async def _travel(self, trip: _Trip, prepared: Prepared, admission: Admission) -> None:
        """Have one batch done, and take in what it brings."""
        lane, ledger = trip.lane, self.ledger
        parcel = self._parcel(trip, prepared)
        ledger.bytes_out += len(parcel)
        self._tell(events.WorkerStarted(lane.index, 0))
        lane.told = 0
        problem = "nothing came back"
        judged = False
        brought: list[Kept] = []
        try:
            data = await self._scheduler.do(trip.number, parcel)
            ledger.batches += 1
            ledger.bytes_in += len(data)
            for line in data.splitlines():
                match decode_message(line):
                    case Kept() as kept:
                        brought.append(kept)
                    case Finished(judged=judged, problem=problem):
                        pass
                    case _:
                        problem = f"batch {trip.number} came back as something else"
        except ParcelLostError as error:
            problem = str(error)
        except msgspec.DecodeError as error:
            problem = f"batch {trip.number} came back as something else: {error}"
        finally:
            # From here on the next batch can be under way.
            del self._trips[trip.number]
            # What it was given and has not used, others may.
            self._given -= max(trip.executions - lane.told, 0)
            self._tell(events.WorkerEnded(lane.index, lane.told, "budget", restarted=False))
            self._free.append(lane)
            self._back.set()
        self._merging += 1
        try:
            await self._take_in(trip, brought, admission, judged=judged)
        finally:
            self._merging -= 1
            self._back.set()
        self._judge(problem)

    def _judge(self, problem: str) -> None:
        """Take note of whether a batch was any good.

        Raises:
            InfraError: none is any more.
        """
        if not problem:
            self._lost_in_a_row = 0
            return
        self.ledger.lost += 1
        self._lost_in_a_row += 1
        self._mail.warn(problem)
        if self._lost_in_a_row >= LOST_MAX:
            raise InfraError(f"{LOST_MAX} batches in a row came to nothing, the last: {problem}")

    async def _take_in(
        self, trip: _Trip, brought: list[Kept], admission: Admission, *, judged: bool
    ) -> None:
        bred = 0
        for kept in brought:
            self.ledger.received += 1
            if not self._stock.promising(kept):
                self.ledger.duplicates += 1
                continue
            answer = await admission.admit(kept.stream)
            if answer is None:
                continue
            self._tell_trouble(answer)
            if not answer.worth:
                continue
            bred += 1
            self.ledger.admitted += 1
            self._stock.add(answer, judged=True)
            self._tell(events.CorpusAdded(
                trip.lane.index, answer.digest, answer.size, trip.lane.told, kept.operators
            ))  # fmt: skip
        self._stock.credit(trip.streams, bred, judged=judged)
        self._stock.credit(trip.seeds, 0, judged=judged)
        if admission.given_up:
            self._mail.warn("too many streams end the process that runs them; no more are kept")

    def _tell_trouble(self, answer: Answer) -> None:
        if answer.trouble:
            self._mail.warn(f"stream {answer.digest[:16]} could not be run here: {answer.trouble}")
