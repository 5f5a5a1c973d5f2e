"""``events.ndjson``: what happened, and nothing that only this run on this
machine could know.

Two runs with the same seed and the same budget in executions write the same
bytes (native engine, one worker).  So process ids, folders and durations are
left blank, and of the totals, which workers send by the clock, only the last
ones of each worker are written.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from loadfuzz import events
from loadfuzz.events import Event

LINE_SIZE_MAX: Final = 1 << 20
"""Longest line in bytes; workers may not send longer ones."""


class EventLog:
    """The log file of a campaign; a :class:`~loadfuzz.abc.Reporter`.

    Args:
        path: appended to, so that a resumed campaign has one log.
    """

    __slots__ = ("_descriptor", "_latest", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._latest: dict[int, events.Progress] = {}

    def start(self) -> None:
        """Open it.

        Raises:
            OSError: it cannot be written.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        self._cut_torn_line()

    def handle(self, event: Event) -> None:
        """Write it, if it belongs here.

        Raises:
            OSError: the disk is full, for example.
        """
        match event:
            case events.Progress():
                self._latest[event.worker] = msgspec.structs.replace(event, loads={})
                return
            case events.CampaignStarted():
                event = msgspec.structs.replace(event, out="")
            case events.WorkerStarted():
                event = msgspec.structs.replace(event, pid=0)
            case events.CampaignEnded():
                event = msgspec.structs.replace(event, seconds=0.0)
            case events.WorkerEnded():
                last = self._latest.pop(event.worker, None)
                if last is not None:
                    self._write(last)
            case _:
                pass
        self._write(event)

    def stop(self) -> None:
        """Close it.  What was written is with the kernel: it survives us, not a power loss."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _cut_torn_line(self) -> None:
        """Remove the line that an earlier run was writing when its disk was full."""
        size = os.fstat(self._descriptor).st_size
        start = max(size - LINE_SIZE_MAX, 0)
        tail = os.pread(self._descriptor, size - start, start)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.ftruncate(self._descriptor, start + whole)

    def _write(self, event: Event) -> None:
        rest = memoryview(events.encode(event))
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
