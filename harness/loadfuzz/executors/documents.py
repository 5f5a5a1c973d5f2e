"""Trees of streams, parsed once: parents are mutated again and again."""

from collections import OrderedDict
from typing import Final

from loadfuzz.abc import Format
from loadfuzz.places import Places
from savevm.document import Document

STREAMS_MAX: Final = 128
"""Trees kept.  A parent that is drawn has many children at once, so few suffice:
with the 4,500 entries of a long run 64 are as fast as 2048, and a worker is full
after minutes, not hours."""

BYTES_MAX: Final = 4 << 20
"""Bytes of all streams whose trees are kept; a tree takes some forty times the
memory of its stream, so this is what bounds the worker's memory."""


class Documents:
    """A cache of trees, those used last being kept.

    Args:
        target: parses.
        streams_max: see :data:`STREAMS_MAX`.
        bytes_max: see :data:`BYTES_MAX`.
    """

    __slots__ = ("_bytes", "_bytes_max", "_places", "_streams_max", "_target")

    def __init__(
        self, target: Format, *, streams_max: int = STREAMS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._target = target
        self._streams_max = streams_max
        self._bytes_max = bytes_max
        self._bytes = 0
        # By the stream itself: Python keeps the hash of a bytes object, and comparing is a
        # memcmp, so this is cheaper than any digest.
        self._places: OrderedDict[bytes, Places] = OrderedDict()

    def __contains__(self, stream: bytes) -> bool:
        return stream in self._places

    def __len__(self) -> int:
        return len(self._places)

    def places(self, stream: bytes) -> Places:
        """What of ``stream`` can be changed; kept."""
        places = self._places.get(stream)
        if places is not None:
            self._places.move_to_end(stream)
            return places
        places = Places(self._target.parse(stream))
        self._places[stream] = places
        self._bytes += len(stream)
        while len(self._places) > 1 and (
            len(self._places) > self._streams_max or self._bytes > self._bytes_max
        ):
            old, _ = self._places.popitem(last=False)
            self._bytes -= len(old)
        return places

    def document(self, stream: bytes) -> Document:
        """The tree of ``stream``; kept too, since what is looked at closer is
        mostly new, and what is new is mutated next."""
        return self.places(stream).document
