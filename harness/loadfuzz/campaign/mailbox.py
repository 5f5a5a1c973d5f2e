"""What batches say while they are under way: numbers, warnings, and findings, which are kept
at once and run here when there is time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from loadfuzz import events
from loadfuzz.campaign.crew import Course
from loadfuzz.campaign.incoming import adopt_finding
from loadfuzz.campaign.parcel import Found, Told, decode_message
from loadfuzz.errors import LoadfuzzError, UsageError
from loadfuzz.oracles.no_hang import NAME as NO_HANG
from loadfuzz.repro.folder import read_finding
from loadfuzz.repro.replay import replay

FINDINGS_MAX: Final = 10_000
"""Findings of one campaign; a worker that names each alarm otherwise must not fill the disk."""
WARNINGS_MAX: Final = 100
"""Warnings that are passed on; more tell no more."""
CONFIRM_S: Final = 30.0
"""Time to see whether a finding happens here, too."""


@dataclass(slots=True)
class Ledger:
    """What the cluster cost.

    Attributes:
        batches: that came back.
        lost: that did not, or with an error.
        again: that Dask ran again since their machine was lost.
        bytes_out, bytes_in: of parcels, and of what came back.
        received, duplicates, admitted: streams that came back; of those, that claim to show
            nothing unknown; and worth keeping when they were run here.
        findings: that came back, duplicates included.
        lanes: most batches at a time.
    """

    batches: int = 0
    lost: int = 0
    again: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    received: int = 0
    duplicates: int = 0
    admitted: int = 0
    findings: int = 0
    lanes: int = 0


@dataclass(slots=True)
class Lane:
    """One place for batches, over all that run there.

    Attributes:
        index: that takes the place of a worker's in every report.
        told: executions that the present batch has told of.
    """

    index: int
    told: int = 0


class Mailbox:
    """Hears all batches of one campaign.

    Args:
        course: the campaign.
        ledger: where it is counted.
        lane_of: where a batch is under way; ``None`` for one that was given up.
        corpus: streams in the corpus.
        news: is set when something has to be done.

    Attributes:
        failure: what went wrong while a message was heard; Dask would swallow it.
        confirmed: signatures that were seen here.
    """

    def __init__(
        self,
        course: Course,
        ledger: Ledger,
        lane_of: Callable[[int], Lane | None],
        corpus: Callable[[], int],
        news: asyncio.Event,
    ) -> None:
        self._course = course
        self._tell = course.tell
        self._ledger = ledger
        self._lane_of = lane_of
        self._corpus = corpus
        self._news = news
        self._warnings = 0
        self._unconfirmed: list[events.FindingAnnounced] = []
        self._confirming = False
        self.failure: Exception | None = None
        self.confirmed: set[str] = set()

    @property
    def confirms(self) -> bool:
        """Some finding was not seen here yet."""
        return bool(self._unconfirmed) or self._confirming

    def next_to_confirm(self) -> events.FindingAnnounced | None:
        """The finding that :meth:`confirm` is to be called for now; one at a time."""
        if self._confirming or not self._unconfirmed:
            return None
        self._confirming = True
        return self._unconfirmed.pop(0)

    def warn(self, text: str) -> None:
        """Pass a warning on, while there are not too many."""
        self._warnings += 1
        if self._warnings <= WARNINGS_MAX:
            self._tell(events.MachineryWarning(text))

    async def confirm(self, announced: events.FindingAnnounced) -> None:
        """See whether what a worker sent happens here, too."""
        try:
            finding = read_finding(self._course.folder.path / announced.folder)
            async with asyncio.timeout(CONFIRM_S):
                replayed = await replay(
                    finding.target, finding.input, 1, wanted=finding.violation,
                    load_timeout_s=finding.load_timeout_s,
                )  # fmt: skip
            shown = bool(replayed.reproduced)
        except TimeoutError:
            shown = finding.violation.oracle == NO_HANG
        except LoadfuzzError:
            shown = False
        finally:
            self._confirming = False
            self._news.set()
        if shown:
            self.confirmed.add(announced.signature)
        else:
            self.warn(
                f"{announced.folder} was sent by the cluster and does not happen here; it is kept"
            )

    def hear(self, number: int, line: bytes) -> None:
        """A message of a batch, which may have been given up meanwhile; called by Dask, which
        would swallow an error."""
        try:
            self._handle(number, line)
        except Exception as error:
            self.failure = self.failure or error
            self._news.set()

    def _handle(self, number: int, line: bytes) -> None:
        lane = self._lane_of(number)
        self._ledger.bytes_in += len(line)
        try:
            message = decode_message(line)
        except msgspec.DecodeError as error:
            self.warn(f"batch {number} sent what is no message: {error}")
            return
        match message:
            case Told(event=told) if lane is not None:
                self._hear_event(lane, told)
            case Found(files=files):
                self._hear_finding(number, 0 if lane is None else lane.index, files)
            case _:
                pass

    def _hear_event(
        self,
        lane: Lane,
        event: events.Progress | events.MachineryWarning | events.FindingRepeated,
    ) -> None:
        match event:
            case events.Progress():
                if event.executions < lane.told:
                    # Another process has begun it anew: its machine or its worker was lost.
                    self._ledger.again += 1
                    self._tell(events.WorkerEnded(lane.index, lane.told, "lost", restarted=True))
                    self._tell(events.WorkerStarted(lane.index, 0))
                lane.told = event.executions
                self._tell(msgspec.structs.replace(
                    event, worker=lane.index, corpus=self._corpus()
                ))  # fmt: skip
            case events.FindingRepeated():
                self._tell(msgspec.structs.replace(event, worker=lane.index))
            case events.MachineryWarning(text=text):
                self.warn(text)

    def _hear_finding(self, number: int, lane: int, files: dict[str, bytes]) -> None:
        self._ledger.findings += 1
        course = self._course
        if len(course.totals.findings) >= FINDINGS_MAX:
            self.warn(f"there are {FINDINGS_MAX} findings; further ones are not kept")
            return
        try:
            told = adopt_finding(course.folder, files, lane, course.settings.target)
        except UsageError as error:
            self.warn(f"batch {number} sent no finding: {error}")
            return
        self._tell(told)
        if isinstance(told, events.FindingAnnounced):
            self._unconfirmed.append(told)
            self._news.set()
