"""What a worker says: lines that are events of its own, and lines that are none.

A worker runs the target, so anything may come from it: what a loader prints, what another
worker would say, announcements of what is not there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from loadfuzz import events
from loadfuzz.events import Event
from loadfuzz.repro.folder import MANIFEST

GARBAGE_SHOWN_MAX: Final = 3
"""Lines of one worker that are no events, of which a warning is made; more tell no more."""


class Listener:
    """Listens to one worker, over all its restarts.

    Args:
        worker: its index; it may speak for no other.
        folder: of the campaign.
        tell: hears warnings.
    """

    __slots__ = ("_folder", "_garbage", "_tell", "_worker")

    def __init__(self, worker: int, folder: Path, tell: Callable[[Event], None]) -> None:
        self._worker = worker
        self._folder = folder
        self._tell = tell
        self._garbage = 0

    def event_of(self, line: bytes) -> Event | None:
        """The event on a line, ``None`` for one that a worker has no business to say."""
        try:
            event = events.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._garbled(line, str(error))
            return None
        match event:
            case events.MachineryWarning():
                return event
            case (
                events.WorkerStarted()
                | events.WorkerEnded()
                | events.Progress()
                | events.CorpusAdded()
                | events.FindingAnnounced()
                | events.FindingRepeated()
            ) if event.worker == self._worker:
                self._check(event)
                return event
            case _:
                self._garbled(line, "not its to say")
                return None

    def _check(self, event: Event) -> None:
        if isinstance(event, events.FindingAnnounced) and not (
            (self._folder / event.folder / MANIFEST).is_file()
        ):
            self._tell(events.MachineryWarning(
                f"worker {self._worker} announced {event.folder}, which is not there"
            ))  # fmt: skip

    def _garbled(self, line: bytes, reason: str) -> None:
        self._garbage += 1
        if self._garbage <= GARBAGE_SHOWN_MAX:
            text = f"worker {self._worker} sent a line that is no event ({reason}): {line[:60]!r}"
            self._tell(events.MachineryWarning(text))
