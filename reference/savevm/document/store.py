"""The bytes under a Document: in memory, or in a file that is read on demand.

A store knows its size, hands out any span, and finds patterns without ever
holding more than a window of a file.  A file is read with ``pread``: mapped
pages would count as memory of the process.
"""

import os
import re
from collections.abc import Iterator
from typing import Final, Protocol

from savevm.qemufile import Buffer

WINDOW: Final = 1 << 20
"""Bytes of a file that are looked at in one piece."""
PIECE_MAX: Final = 1 << 30
"""Bytes one read asks for: Linux hands out less than 2 GiB at a time."""
OVERLAP: Final = 512
"""Bytes two windows share, more than any pattern is long (a section header has
at most 14 bytes beside its name of 255)."""


class Store(Protocol):
    """Where the bytes of a stream are."""

    size: int

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, fewer only behind the last one."""

    def find(self, pattern: bytes, start: int, end: int) -> int:
        """Offset of ``pattern`` within ``start`` to ``end``, or -1."""

    def finditer(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
        """Offsets where ``pattern`` matches, each at most once, in order."""

    def close(self) -> None:
        """Give back what the store holds open.  Calling it twice is allowed."""


class MemoryStore:
    """Bytes in memory."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, start: int, end: int) -> bytes:
        return self.data[start:end]

    def find(self, pattern: bytes, start: int, end: int) -> int:
        return self.data.find(pattern, start, end)

    def finditer(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
        for match in pattern.finditer(self.data, start, end):
            yield match.start()

    def close(self) -> None:
        """Nothing is open."""


class FileStore:
    """A regular file.

    Args:
        path: the file; it must not change while the store is in use.

    Raises:
        OSError: it cannot be opened.
    """

    __slots__ = ("_file", "size")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = -1
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size

    def close(self) -> None:
        """Close the file; the store is of no use afterwards.  Calling it twice is
        allowed."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        self.close()

    def read(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        while start < end:
            piece = os.pread(self._file, min(end - start, PIECE_MAX), start)
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def find(self, pattern: bytes, start: int, end: int) -> int:
        while start < end:
            window = self.read(start, min(end, start + WINDOW))
            at = window.find(pattern)
            if at >= 0:
                return start + at
            if len(window) < WINDOW:
                break
            start += len(window) - len(pattern) + 1
        return -1

    def finditer(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
        while start < end:
            stop = min(end, start + WINDOW)
            window = self.read(start, stop)
            # What begins in the overlap is found whole in the next window.
            own = len(window) if stop == end else len(window) - OVERLAP
            for match in pattern.finditer(window):
                if match.start() >= own:
                    break
                yield start + match.start()
            if own <= 0 or stop == end:
                break
            start += own


class StoreSource:
    """A store as the source of a QEMUFile, from any offset on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.position = 0

    def read(self, size: int) -> Buffer:
        piece = self._store.read(self.position, min(self.position + size, self._store.size))
        self.position += len(piece)
        return piece

    def close(self) -> None:
        """The store belongs to the Document and stays open."""
