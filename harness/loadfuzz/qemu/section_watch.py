"""Where sections begin in a stream that is still being sent.

Theory of operation.  Nobody knows beforehand what a running machine will send: how many
rounds of RAM there are, and with which pages, differs from time to time.  So the sections
are found as they pass: the first by the look of its header, each further one behind the
footer of the one before, 0x7e and that section's own id, if what follows looks like
something that may follow (:meth:`savevm.document.resync.Searcher.is_next`).  Bytes about
which there is doubt are held back until more has come: at most a footer and a header.

How exact that is: the bytes of a footer, the id that was read before and a plausible header
would have to stand in guest memory or in a device to be taken for a section, seven bytes at
least that are just so; a guest could write them on purpose.  Machine types of 2.3 and older
write no footers: of their sections only the first is found.
"""

import re
from collections.abc import Iterator
from typing import Final

from savevm.constants import (
    IDSTR_MAX,
    QEMU_VM_COMMAND,
    QEMU_VM_EOF,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_START,
)
from savevm.document.resync import FOOTER_SIZE, Searcher

RECORD_MAX: Final = 64 << 20
"""Bytes of a stream that are kept and watched: the machines of the profiles send a hundredth
of it; sections that begin later are not found."""
HEAD_SIZE: Final = 8
"""Magic and version, before anything else."""
HEADER_MAX: Final = 1 + 4 + 1 + IDSTR_MAX + 8
"""Longest header of a section: type, id, name and its length, instance and version."""


class SectionWatch:
    """What was sent so far, and where sections begin in it.

    Attributes:
        starts: offsets of the sections found until now, in order.
        end: offset behind the byte that ends the machine's state (``QEMU_VM_EOF``), 0 while
            that has not come; what follows, the vmdesc, no loader needs.
    """

    __slots__ = ("_ended", "_open", "_record", "_scan", "_searcher", "_size", "end", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.end = 0
        self._record = _Record()
        self._searcher = Searcher(self._record)
        self._open: int | None = None
        self._scan = HEAD_SIZE
        self._size = 0
        self._ended = False

    @property
    def size(self) -> int:
        """Bytes that were sent."""
        return self._size

    def recorded(self, start: int = 0, end: int = RECORD_MAX) -> bytes:
        """Bytes of what was sent, as far as they are kept."""
        return self._record.read(start, end)

    def feed(self, data: bytes) -> int:
        """More was sent.

        Returns:
            How many bytes, from the beginning, are in no doubt any more: no section will be
            found to begin before that offset that is not in :attr:`starts` now.
        """
        self._size += len(data)
        self._record.add(data)
        return self._look()

    def finish(self) -> int:
        """Nothing more will be sent; returns as :meth:`feed`."""
        self._ended = True
        return self._look()

    def _look(self) -> int:
        while not self.end and self._size <= RECORD_MAX:  # each turn moves on or returns
            sure = self._header() if self._open is None else self._footer(self._open)
            if sure is not None:
                return sure
        return self._size

    def _header(self) -> int | None:
        """Look for the next header; where that is in doubt, the offset from which."""
        at = self._searcher.next_header(self._scan)
        if at is not None:
            self._begin(at)
            return None
        # One that has not come whole may begin anywhere behind this.
        self._scan = max(self._scan, self._size - HEADER_MAX)
        return self._size if self._ended else min(self._scan, self._size)

    def _footer(self, section_id: int) -> int | None:
        """Look for the footer of the open section; where that is in doubt, the offset from
        which."""
        pattern = bytes((QEMU_VM_SECTION_FOOTER,)) + section_id.to_bytes(4, "big")
        at = self._record.find(pattern, self._scan, self._size)
        if at < 0:
            self._scan = max(self._scan, self._size - FOOTER_SIZE + 1)
            return self._size if self._ended else min(self._scan, self._size)
        following = at + FOOTER_SIZE
        if self._size - following < HEADER_MAX and not self._ended:
            self._scan = at
            return at
        if not self._searcher.is_next(following, section_id):
            self._scan = at + 1
            return None
        self._follow(following)
        return None

    def _follow(self, at: int) -> None:
        """What stands behind a section stands at ``at``."""
        kind = self._record.read(at, at + 1)
        if not kind or kind[0] == QEMU_VM_COMMAND:
            self._open, self._scan = None, at
        elif kind[0] == QEMU_VM_EOF:
            self._open, self.end = None, at + 1
        else:
            self._begin(at)

    def _begin(self, at: int) -> None:
        self.starts.append(at)
        head = self._record.read(at, at + 6)
        self._open = int.from_bytes(head[1:5], "big")
        self._scan = at + 5
        if head[0] in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL):
            self._scan = at + 6 + head[5] + 8
        if head[0] == QEMU_VM_SECTION_START:
            self._searcher.live_ids.add(self._open)


class _Record:
    """Bytes in memory, more of them from time to time
    (:class:`savevm.document.store.Store`)."""

    __slots__ = ("_data", "size")

    def __init__(self) -> None:
        self._data = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Keep them, as far as there is room."""
        self._data += data[: RECORD_MAX - len(self._data)]
        self.size = len(self._data)

    def read(self, start: int, end: int) -> bytes:
        return bytes(self._data[start:end])

    def find(self, pattern: bytes, start: int, end: int) -> int:
        return self._data.find(pattern, start, end)

    def finditer(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
        # A list, since no bytes can be added while an iterator looks at them.
        yield from [match.start() for match in pattern.finditer(self._data, start, end)]

    def close(self) -> None:
        """Nothing is open."""
