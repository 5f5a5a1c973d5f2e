"""A QEMUFile open for writing: buffered, with positions and a rate limit.

Small writes gather in one buffer; pages are kept as references until the next
flush and go to the sink in one ``writev``, so that saving RAM copies each page
once (QEMU's iovec in ``migration/qemu-file.c``).
"""

from errno import EIO
from struct import Struct
from typing import Final

from savevm.constants import IO_BUF_SIZE
from savevm.qemufile.sources import Buffer, Sink
from savevm.trace import Trace

_U16: Final = Struct(">H").pack
_U32: Final = Struct(">I").pack
_U64: Final = Struct(">Q").pack


class QEMUFileWriter:
    """Writes one stream (``qemu_put_*`` of QEMU's ``migration/qemu-file.c``).

    Failures of the sink do not raise: they set the error state, which the
    savevm loops test, and later writes are dropped.

    Args:
        sink: where the bytes go.
        trace: where trace events of the save go; ``None`` for nowhere.
        rate_limit: bytes per period after which :meth:`rate_limited` says so;
            0 for no limit.
    """

    def __init__(self, sink: Sink, *, trace: Trace | None = None, rate_limit: int = 0) -> None:
        self._sink = sink
        self._pieces: list[Buffer] = []
        self._tail = bytearray()
        self._pending = 0
        self._flushed = 0
        self._error = 0
        self._limit = rate_limit
        self._period_start = 0
        self._closed = False
        self.trace = trace

    def tell(self) -> int:
        """Bytes written so far, flushed or not (``qemu_ftell``)."""
        return self._flushed + self._pending + len(self._tail)

    def get_error(self) -> int:
        """0, or the negative errno of the first failure (``qemu_file_get_error``)."""
        return self._error

    def set_error(self, error: int) -> None:
        """Keep the first error, a negative errno (``qemu_file_set_error``)."""
        if not self._error:
            self._error = error

    # -- rate limit ---------------------------------------------------------------

    def rate_limited(self) -> bool:
        """Whether this period's bytes are used up, or writing has failed
        (``qemu_file_rate_limit``)."""
        if self._error:
            return True
        return 0 < self._limit < self.tell() - self._period_start

    def set_rate_limit(self, limit: int) -> None:
        """Bytes per period, 0 for no limit (``qemu_file_set_rate_limit``)."""
        self._limit = limit

    def get_rate_limit(self) -> int:
        """Bytes per period (``qemu_file_get_rate_limit``)."""
        return self._limit

    def reset_rate_limit(self) -> None:
        """Begin a new period (``qemu_file_reset_rate_limit``)."""
        self._period_start = self.tell()

    # -- writing -------------------------------------------------------------------

    def put_byte(self, value: int) -> None:
        """One byte; higher bits are cut off, as C's conversion does."""
        self._tail.append(value & 0xFF)

    def put_be16(self, value: int) -> None:
        """Two bytes, big-endian; higher bits are cut off."""
        self._tail += _U16(value & 0xFFFF)

    def put_be32(self, value: int) -> None:
        """Four bytes, big-endian; higher bits are cut off."""
        self._tail += _U32(value & 0xFFFF_FFFF)

    def put_be64(self, value: int) -> None:
        """Eight bytes, big-endian; higher bits are cut off."""
        self._tail += _U64(value & 0xFFFF_FFFF_FFFF_FFFF)

    def put_buffer(self, data: Buffer) -> None:
        """Bytes, copied now (``qemu_put_buffer``)."""
        self._tail += data
        if len(self._tail) >= IO_BUF_SIZE:
            self._seal()
            self._drain()

    def put_buffer_async(self, data: Buffer) -> None:
        """Bytes, read at the next flush: the caller keeps them unchanged until
        then (``qemu_put_buffer_async``)."""
        self._seal()
        self._pieces.append(data)
        self._pending += len(data)
        if self._pending >= IO_BUF_SIZE:
            self._drain()

    def put_counted_string(self, text: str) -> None:
        """A length byte and the text as Latin-1.

        Raises:
            ValueError: the text is longer than 255 bytes.
        """
        data = text.encode("latin-1")
        if len(data) > 0xFF:
            raise ValueError(f"a counted string has at most 255 bytes, not {len(data)}")
        self._tail.append(len(data))
        self._tail += data

    def flush(self) -> None:
        """Hand everything to the sink (``qemu_fflush``)."""
        self._seal()
        self._drain()

    def close(self) -> int:
        """Flush, close the sink, return the error state (``qemu_fclose``)."""
        if not self._closed:
            self.flush()
            self._closed = True
            try:
                self._sink.close()
            except OSError as error:
                self.set_error(-(error.errno or EIO))
        return self._error

    def _seal(self) -> None:
        if self._tail:
            self._pieces.append(self._tail)
            self._pending += len(self._tail)
            self._tail = bytearray()

    def _drain(self) -> None:
        if not self._pieces:
            return
        if not self._error:
            try:
                self._sink.writev(self._pieces, self._flushed)
            except OSError as error:
                self.set_error(-(error.errno or EIO))
        self._flushed += self._pending
        self._pieces = []
        self._pending = 0
