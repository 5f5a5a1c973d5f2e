"""Finding the vmdesc of a stream without parsing the stream.

It is the last thing in it (but for junk), so it is looked for from the end: the
type byte, a size that fits, and braces at both ends.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

TEXT_MAX: Final = 4 << 20
"""Longest description that is read: a hundred times the largest known, and small
enough that parsing it takes little."""
VMDESC_WINDOW: Final = TEXT_MAX + (1 << 20)
"""Bytes at the end of a stream that are searched: a description, and some padding
behind it."""
_HEAD: Final = 5
_LAST: Final = 0x7D  # closing brace
_START: Final = re.compile(rb"\x06[\x00-\xff]{4}\{")
_CANDIDATES_MAX: Final = 64


class ReadsSpans(Protocol):
    """What is searched."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``."""


@dataclass(frozen=True, slots=True)
class VmdescSpan:
    """Where a description is.

    Attributes:
        start: offset of its type byte.
        text: the JSON, and maybe something behind it if the size was wrong.
    """

    start: int
    text: bytes


def locate_vmdesc(stream: ReadsSpans) -> VmdescSpan | None:
    """The last thing in ``stream`` that looks like a vmdesc, if any does."""
    base = max(stream.size - VMDESC_WINDOW, 0)
    window = stream.read(base, stream.size)
    misfit: VmdescSpan | None = None
    for tried, match in enumerate(reversed([m.start() for m in _START.finditer(window)])):
        if tried == _CANDIDATES_MAX:
            break
        start = match + _HEAD
        size = int.from_bytes(window[match + 1 : start], "big")
        if size <= min(len(window) - start, TEXT_MAX) and window[start + size - 1] == _LAST:
            return VmdescSpan(base + match, window[start : start + size])
        if misfit is None and match and window[match - 1] == 0:
            # A wrong size does not spoil the text.
            misfit = VmdescSpan(base + match, window[start : start + TEXT_MAX])
    return misfit
