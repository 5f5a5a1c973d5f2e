"""Where a stream comes from and where it goes: the ``QEMUFileOps`` of QEMU.

A source hands out bytes in whatever pieces it has; a loader must give the same
result for every chunking.  All are synchronous: a source that has to wait for
an event loop suspends its caller inside :meth:`Source.read` (QEMU does the
same by yielding from its coroutine).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EAGAIN, EBADF
from typing import BinaryIO, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Source(Protocol):
    """What a reading QEMUFile reads from (``get_buffer`` and ``close``)."""

    def read(self, size: int) -> Buffer:
        """Return 1 to ``size`` bytes, or none at the end.  May raise ``OSError``."""

    def close(self) -> None:
        """Give back what the source holds.  Calling it twice is allowed."""


class Sink(Protocol):
    """What a writing QEMUFile writes to (``writev_buffer`` and ``close``)."""

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        """Write all pieces, the first at byte ``position``.  May raise ``OSError``."""

    def close(self) -> None:
        """Flush and give back what the sink holds.  May raise ``OSError``."""


class ChunkSource:
    """Bytes in pieces of the caller's choosing: the chunking oracle's tool.

    Args:
        chunks: the pieces in order; empty ones are passed over.
    """

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks: Iterator[Buffer] = iter(chunks)
        self._rest: memoryview = memoryview(b"")

    @classmethod
    def split(cls, data: bytes, sizes: Sequence[int]) -> "ChunkSource":
        """Cut ``data`` into pieces of ``sizes`` bytes, repeated as long as needed.

        Raises:
            ValueError: a size is below one, or there is none.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError("chunk sizes must be at least 1 byte")
        return cls(_split(memoryview(data), sizes))

    def read(self, size: int) -> Buffer:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        self._chunks = iter(())


def _split(data: memoryview, sizes: Sequence[int]) -> Iterator[memoryview]:
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        yield data[position : position + size]
        position += size
        turn += 1


class FileSource:
    """A binary file object; short reads are passed on as they come.  One that is
    closed, or has nothing yet and does not wait, is a source that fails."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # A buffered file's read() waits until all bytes are there: on a pipe
        # that is for ever, since a QEMUFile asks for more than it needs.
        self._read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)

    def read(self, size: int) -> Buffer:
        try:
            data = self._read(size)
        except ValueError as error:
            raise OSError(EBADF, str(error)) from error
        if data is None:
            raise BlockingIOError(EAGAIN, "the file has no data yet and does not wait")
        return data

    def close(self) -> None:
        self._file.close()


class SuspendingSource:
    """A source that suspends its caller until bytes arrive.

    Args:
        wait: called with the number of bytes wanted when none are at hand; it
            returns when some are there (``b""`` at the end).  Between call and
            return anything may run: it may switch greenlets, block a thread or
            be a scripted step of a test.
        close: called once when the file is closed.
    """

    def __init__(
        self, wait: Callable[[int], Buffer], close: Callable[[], None] | None = None
    ) -> None:
        self._wait = wait
        self._close = close
        self._rest: memoryview = memoryview(b"")

    def read(self, size: int) -> Buffer:
        if not self._rest:
            self._rest = memoryview(self._wait(size))
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class BytesSink:
    """Keeps the whole stream in :attr:`data`."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        del position  # a QEMUFile writes in order
        self.data += b"".join(pieces)

    def close(self) -> None:
        """Nothing to give back; the data stay."""


class FileSink:
    """A binary file object."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        del position
        self._file.write(b"".join(pieces))

    def close(self) -> None:
        self._file.close()
