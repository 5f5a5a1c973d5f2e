"""Finding the next thing that looks like the stream again.

A load that failed inside a section goes on behind that section's footer; one
that met junk goes on at the next section.  What a search may cost in all is
bounded by a budget linear in the stream: when it is used up, the rest of the
stream stays opaque.
"""

import re
from collections.abc import Iterator
from enum import Enum
from struct import Struct
from typing import Final

from savevm.commands import LENGTHS
from savevm.constants import (
    QEMU_VM_COMMAND,
    QEMU_VM_EOF,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
    QEMU_VM_VMDESCRIPTION,
)
from savevm.document.store import Store

BUDGET_FACTOR: Final = 8
"""Searching may look at this many times the stream: enough to find one's
footing after every damage a mutator makes, and linear."""
BUDGET_LEAST: Final = 1 << 20
"""Bytes of searching that even the smallest stream may have."""
RESYNCS_MAX: Final = 2048
"""Searches of one parse; each has a cost beside the bytes it looks at."""
LOOKBACK_MAX: Final = 1 << 20
"""How far behind an error its section's footer is looked for.  A load that ran
on past a section cut short has read that much at most: real payloads of devices
are some tens of kilobytes, items of RAM are pages."""
CANDIDATES_MAX: Final = 4096
"""Candidates one search tries before it gives up."""

FOOTER_SIZE: Final = 5
_U32: Final = Struct(">I").unpack_from
_ID_MAX: Final = 1 << 16
"""Section, instance and version numbers of a header that is believed: real ones
count devices.  All ones is an instance id, too (-1)."""
_VERSION_MAX: Final = 1 << 8
_ALL_ONES: Final = 0xFFFF_FFFF
# Type, a small id, a length, and the first byte of a name: what a search for
# sections stops at before it looks closer.
_HEADER: Final = re.compile(rb"[\x01\x04]\x00\x00[\x00-\xff]{2}[\x01-\xff][!-~]")
_PART: Final = re.compile(rb"[\x02\x03]\x00\x00")
_HEADER_MAX: Final = 6 + 255 + 8


class Footing(Enum):
    """What was found at the end of a section."""

    OWN = "a footer with the section's id"
    OTHER = "a footer with another id, before something plausible"
    NONE = "no footer"


class Searcher:
    """Looks for footers and section headers in one stream.

    Args:
        store: the stream.
        vmdesc_start: offset of the vmdesc's type byte where it is known.

    Attributes:
        footers: sections have footers; what was saved for a machine type of 2.3
            and older has none.
        size: of the stream in bytes.
        budget: bytes that may still be looked at or read again.
        live_ids: section ids of which PART and END sections may follow.
    """

    def __init__(self, store: Store, vmdesc_start: int | None = None) -> None:
        self._store = store
        self.size = store.size
        self.budget = BUDGET_FACTOR * store.size + BUDGET_LEAST
        self._resyncs = 0
        self.live_ids: set[int] = set()
        self.footers = True
        self.vmdesc_start = vmdesc_start

    # -- what a search finds ---------------------------------------------------------------

    def end_of_section(self, section_id: int, start: int) -> tuple[int, Footing]:
        """Where the section with this id ends that was lost at or behind ``start``.

        Returns:
            Offset, and what is there.  Without a footer it is the next section,
            the end of the stream's sections, or the end of the stream.
        """
        if not self._may_search():
            return self._store.size, Footing.NONE
        following = self.next_header(start)
        limit = following if following is not None else self._ending(start)
        footer = self._footer(section_id, start, limit)
        if footer is not None:
            return footer, Footing.OWN
        if limit - FOOTER_SIZE >= start and self._byte(limit - FOOTER_SIZE) == (
            QEMU_VM_SECTION_FOOTER
        ):
            return limit - FOOTER_SIZE, Footing.OTHER
        return limit, Footing.NONE

    def next_section(self, start: int) -> int:
        """Where sections go on at or behind ``start``: a header, a PART or END of
        a live section, or the EOF before the vmdesc; else the stream's end."""
        if not self._may_search():
            return self._store.size
        following = self.next_header(start)
        limit = following if following is not None else self._ending(start)
        if self.live_ids:
            for at in self._candidates(_PART, start, limit):
                if self._is_live(at) and (not self.footers or self._has_footer(at, limit)):
                    return at
        return limit

    def next_header(self, start: int) -> int | None:
        """The next START or FULL header at or behind ``start``."""
        end = self._store.size if self.vmdesc_start is None else self.vmdesc_start
        for at in self._candidates(_HEADER, start, end):
            if self.is_header(at):
                return at
        return None

    # -- what a place looks like -------------------------------------------------------------

    def is_header(self, at: int) -> bool:
        """Whether a START or FULL header begins at ``at``, as far as one can tell."""
        head = self._store.read(at, at + _HEADER_MAX)
        if len(head) < 6 or head[0] not in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL):
            return False
        length = head[5]
        if length == 0 or len(head) < 6 + length + 8 or _U32(head, 1)[0] >= _ID_MAX:
            return False
        name = head[6 : 6 + length]
        instance, version = _U32(head, 6 + length)[0], _U32(head, 10 + length)[0]
        return (
            name.isascii()
            and name.decode("ascii").isprintable()
            and (instance < _ID_MAX or instance == _ALL_ONES)
            and version < _VERSION_MAX
        )

    def is_next(self, at: int, section_id: int | None = None) -> bool:
        """Whether what may stand behind a section stands at ``at``.

        Args:
            at: where.
            section_id: a section that may go on there, beside the live ones.
        """
        if at >= self._store.size:
            return at == self._store.size
        kind = self._byte(at)
        if kind in (QEMU_VM_SECTION_START, QEMU_VM_SECTION_FULL):
            return self.is_header(at)
        if kind in (QEMU_VM_SECTION_PART, QEMU_VM_SECTION_END):
            return self._id_at(at) == section_id or self._is_live(at)
        if kind == QEMU_VM_EOF:
            return at + 1 == self._store.size or self._byte(at + 1) == QEMU_VM_VMDESCRIPTION
        if kind == QEMU_VM_COMMAND:
            head = self._store.read(at + 1, at + 3)
            return int.from_bytes(head, "big") in LENGTHS
        return False

    # -- inside ------------------------------------------------------------------------------

    def _may_search(self) -> bool:
        self._resyncs += 1
        return self.budget > 0 and self._resyncs <= RESYNCS_MAX

    def charge(self, size: int) -> None:
        """``size`` bytes are looked at once more."""
        self.budget -= max(size, 0)

    def _candidates(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
        """Matches, as far as the budget and :data:`CANDIDATES_MAX` allow."""
        # What a search may look at is taken off beforehand and what it did not
        # need given back: a search over nothing costs its whole range.
        end = min(end, start + max(self.budget, 0))
        position = start
        try:
            for tried, at in enumerate(self._store.finditer(pattern, start, end)):
                position = at
                if tried == CANDIDATES_MAX:
                    return
                yield at
            position = end
        finally:
            self.charge(position - start)

    def _footer(self, section_id: int, start: int, end: int) -> int | None:
        """The footer of ``section_id`` that something plausible follows, else the
        first one."""
        pattern = bytes((QEMU_VM_SECTION_FOOTER,)) + section_id.to_bytes(4, "big")
        first: int | None = None
        for _ in range(CANDIDATES_MAX):
            at = self._store.find(pattern, start, end)
            self.charge((at if at >= 0 else end) - start)
            if at < 0 or self.budget <= 0:
                break
            if self.is_next(at + FOOTER_SIZE, section_id):
                return at
            first = at if first is None else first
            start = at + 1
        return first

    def _has_footer(self, at: int, end: int) -> bool:
        return self._footer(self._id_at(at), at + FOOTER_SIZE, end) is not None

    def _ending(self, start: int) -> int:
        """The EOF byte before the vmdesc, else the end of the stream."""
        if self.vmdesc_start is not None and self.vmdesc_start - 1 >= start:
            return self.vmdesc_start - 1
        if not self.footers and start < self._store.size and self._byte(self._store.size - 1) == 0:
            # Without footers only this byte can tell where the last section ends.
            return self._store.size - 1
        return self._store.size

    def _is_live(self, at: int) -> bool:
        return self._id_at(at) in self.live_ids

    def _id_at(self, at: int) -> int:
        """Section id in the header at ``at``."""
        return int.from_bytes(self._store.read(at + 1, at + 5), "big")

    def _byte(self, at: int) -> int:
        byte = self._store.read(at, at + 1)
        return byte[0] if byte else -1
