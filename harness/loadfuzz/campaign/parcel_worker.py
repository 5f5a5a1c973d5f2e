"""Does one parcel: ``python -m loadfuzz.campaign.parcel_worker FOLDER``.

FOLDER has the file ``parcel.json`` and becomes a campaign of one worker, with all that
belongs to one: what kills the worker is a finding, hangs are confirmed, and SIGTERM ends it
cleanly.  What comes of it is sent on stdout, one message of
:mod:`loadfuzz.campaign.parcel` a line.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from loadfuzz import codec, events
from loadfuzz.campaign.folder import CampaignFolder, open_folder
from loadfuzz.campaign.incoming import is_own
from loadfuzz.campaign.parcel import (
    FILES_SIZE_MAX,
    PROGRESS_S,
    Finished,
    Found,
    Kept,
    Message,
    Parcel,
    Told,
    encode_message,
)
from loadfuzz.campaign.preparation import Prepared
from loadfuzz.campaign.prepare import MACHINE
from loadfuzz.campaign.supervisor import Supervisor
from loadfuzz.campaign.totals import Totals
from loadfuzz.channel import Channel
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.errors import LoadfuzzError
from loadfuzz.events import Event
from loadfuzz.exitcodes import ExitCode
from loadfuzz.fitting import SEPARATOR
from loadfuzz.inputs import digest_of
from loadfuzz.storage import CorruptEntryError, outsiders_of, seeds_of

PARCEL: Final = "parcel.json"
_CAMPAIGN: Final = "campaign"


class _Sender:
    """Sends what is worth sending; a :class:`~loadfuzz.abc.Reporter`.

    Args:
        folder: of the campaign here.
        totals: of it; hear each event before we do.
        send: takes a message.
        clock: tells when numbers are due.

    Attributes:
        taken_in: streams that the present worker has run at least.
        kept: what was said of each stream that was kept, by its digest.
    """

    def __init__(
        self, folder: Path, totals: Totals, send: Callable[[Message], None], clock: Clock
    ) -> None:
        self._folder = folder
        self._totals = totals
        self._send = send
        self._clock = clock
        self._sent_s = clock.now_s()
        self.taken_in = 0
        self.kept: dict[str, events.CorpusAdded] = {}

    def start(self) -> None:
        """Nothing to do."""

    def handle(self, event: Event) -> None:
        """Send it, keep it for later, or forget it."""
        match event:
            case events.Progress():
                self.taken_in = event.corpus
                if self._clock.now_s() - self._sent_s >= PROGRESS_S:
                    self.send_numbers()
            case events.MachineryWarning() | events.FindingRepeated():
                self._send(Told(event))
            case events.FindingAnnounced():
                self._send_finding(event.folder)
            case events.CorpusAdded():
                self.kept[event.digest] = event
            case _:
                pass

    def _send_finding(self, name: str) -> None:
        """All files of a finding; without what the target added, where that is too much."""
        sizes = {path.name: path.stat().st_size for path in (self._folder / name).iterdir()}
        if sum(sizes.values()) > FILES_SIZE_MAX:
            sizes = {file: size for file, size in sizes.items() if is_own(file)}
        if sum(sizes.values()) > FILES_SIZE_MAX:
            self._send(Told(events.MachineryWarning(
                f"{name} of a batch has {sum(sizes.values()):,} bytes, too many to be sent, and "
                "is lost; run the target without --cluster to have it"
            )))  # fmt: skip
            return
        self._send(Found({file: (self._folder / name / file).read_bytes() for file in sizes}))

    def send_numbers(self) -> None:
        """Of all workers that there were."""
        self._sent_s = self._clock.now_s()
        self._send(Told(self._totals.progress()))

    def stop(self) -> None:
        """Nothing to do."""


def work(place: Path, send: Callable[[Message], None], clock: Clock) -> None:
    """Do the parcel in ``place`` and send what comes of it.

    Raises:
        LoadfuzzError: it cannot be begun.
        OSError: neither.
    """
    parcel = codec.decode((place / PARCEL).read_bytes(), Parcel)
    settings = parcel.settings
    folder = open_folder(place / _CAMPAIGN, settings.target)
    target = settings.target
    if parcel.machine:
        (place / MACHINE).mkdir()
        file = place / MACHINE / digest_of(parcel.machine)
        file.write_bytes(parcel.machine)
        target = f"{target}{SEPARATOR}{file}"
    totals = Totals(settings.ignore)
    sender = _Sender(folder.path, totals, send, clock)
    with folder.locked(settings):
        for stream in parcel.streams:
            folder.corpus.add(stream)
        outsiders_of(folder.path).add(parcel.outsiders)
        if parcel.seeds:
            seeds_of(folder.path).add(parcel.seeds)
        supervisor = Supervisor(
            settings,
            folder,
            [sender],
            totals,
            clock=clock,
            prepared=Prepared(parcel.engine, len(parcel.streams), target),
        )
        problem = ""
        try:
            asyncio.run(supervisor.run())
        except LoadfuzzError as error:
            problem = str(error)
        sender.send_numbers()
        for kept in _kept(folder, sender.kept):
            send(kept)
        given = {digest_of(stream) for stream in parcel.streams}
        there = given.intersection(folder.corpus.digests())
        send(Finished(sender.taken_in >= len(there), problem))


def _kept(folder: CampaignFolder, said: dict[str, events.CorpusAdded]) -> Iterator[Kept]:
    for digest, event in said.items():
        try:
            stream = folder.corpus.read(digest)
        except (CorruptEntryError, OSError):
            continue  # in quarantine, for it ends workers
        yield Kept(stream, event.operators, event.features, event.behaviour)


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()

    def send(message: Message) -> None:
        channel.send(encode_message(message))

    try:
        work(Path(arguments[0]), send, SystemClock())
    except (LoadfuzzError, OSError, codec.DamagedError) as error:
        send(Finished(False, f"a parcel cannot be done: {error}"))
        return ExitCode.MACHINERY
    return ExitCode.CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
