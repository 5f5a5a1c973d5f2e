"""A QEMUFile open for reading: peek, skip, integers, counted strings, errors.

Theory of operation.  ``_buf[_pos:_end]`` is what has arrived and is not yet
consumed; ``_base`` is the stream offset of ``_buf[0]``.  Every getter has a
fast path that only looks at those, and one slow path, :meth:`_fill`, that asks
the source.  A file over bytes in memory has all of them buffered from the
start and never takes the slow path before its end.

Reads name what they read (``what``): it is what a short read's error speaks
of, and what a recording reader (:mod:`savevm.document`) files the span under.

The end of the stream has two manners, by ``profile.eof_reads_as_zero``: the
seed's (zeros, and ``-EIO`` in the error state) and the strict one (a
:class:`LoadError` at once).  After any error the state is sticky, as in QEMU.
"""

from errno import EIO
from struct import Struct
from typing import TYPE_CHECKING, Final

from savevm.constants import IO_BUF_SIZE
from savevm.errors import LoadError
from savevm.profile import STRICT, Profile
from savevm.qemufile.sources import Buffer, Source
from savevm.trace import Trace

if TYPE_CHECKING:
    from savevm.recording import Recorder

_U16: Final = Struct(">H").unpack_from
_U32: Final = Struct(">I").unpack_from
_U64: Final = Struct(">Q").unpack_from
_S16: Final = Struct(">h").unpack_from
_S32: Final = Struct(">i").unpack_from
_S64: Final = Struct(">q").unpack_from


class QEMUFileReader:
    """Reads one stream (``qemu_get_*`` of QEMU's ``migration/qemu-file.c``).

    Args:
        source: bytes in memory, or a :class:`Source` that hands them out.
        profile: how the end of the stream behaves.
        trace: where trace events of the load go; ``None`` for nowhere.
        trace_fields: also trace every field; false keeps to sections, which
            leaves runs of fields to the fast path.

    Attributes:
        recorder: set by a recording reader; the engines then report every
            structure they enter and read field by field.
    """

    recorder: "Recorder | None" = None

    def __init__(
        self,
        source: Buffer | Source,
        *,
        profile: Profile = STRICT,
        trace: Trace | None = None,
        trace_fields: bool = True,
    ) -> None:
        self._source: Source | None
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._source = None
            self._buf: Buffer = source
        else:
            self._source = source
            self._buf = b""
        self._pos = 0
        self._end = len(self._buf)
        self._base = 0
        self._error = 0
        self.profile = profile
        self.trace = trace
        self.trace_fields = trace is not None and trace_fields
        # Running twice into one's own cleanup is how handlers are lost.
        self._closed = False

    # -- state ---------------------------------------------------------------

    def tell(self) -> int:
        """Stream offset of the next byte (``qemu_ftell``)."""
        return self._base + self._pos

    def get_error(self) -> int:
        """0, or the negative errno of the first failure (``qemu_file_get_error``)."""
        return self._error

    def set_error(self, error: int) -> None:
        """Keep the first error (``qemu_file_set_error``).

        Args:
            error: a negative errno.
        """
        if not self._error:
            self._error = error

    def complain(self, error: LoadError) -> None:
        """Report a fault that does not change what comes next in the stream.

        A value out of bounds is such a fault: the loader must refuse, but the
        layout behind it is known.  This reader raises; a recording one notes
        the fault and lets the load go on.

        Raises:
            LoadError: always, here.
        """
        raise error

    def close(self) -> int:
        """Close the source; return the error state (``qemu_fclose``)."""
        if not self._closed:
            self._closed = True
            if self._source is not None:
                try:
                    self._source.close()
                except OSError as error:
                    self.set_error(-(error.errno or EIO))
        return self._error

    # -- the one slow path ----------------------------------------------------

    def _fill(self, size: int) -> int:
        """Buffer at least ``size`` unread bytes if the source has them.

        Returns:
            How many unread bytes are buffered now.  Fewer than ``size`` means
            that the end was reached or the source failed.

        Raises:
            LoadError: the source failed (strict).
        """
        available = self._end - self._pos
        if available >= size or self._source is None or self._error:
            return available
        pieces: list[Buffer] = [self._buf[self._pos : self._end]]
        while available < size:
            try:
                piece = self._source.read(max(size - available, IO_BUF_SIZE))
            except OSError as error:
                self.set_error(-(error.errno or EIO))
                if not self.profile.eof_reads_as_zero:
                    self._rebuffer(pieces)
                    raise LoadError(
                        f"the source failed: {error.strerror or error}",
                        errno=error.errno or EIO,
                        offset=self.tell() + available,
                    ) from error
                break
            if not piece:
                break
            # A source may reuse its buffer; what is kept must be ours.
            pieces.append(bytes(piece))
            available += len(piece)
        self._rebuffer(pieces)
        return available

    def _rebuffer(self, pieces: list[Buffer]) -> None:
        self._base += self._pos
        self._buf = b"".join(pieces)
        self._pos = 0
        self._end = len(self._buf)

    def _short(self, size: int, available: int, start: int, what: str) -> None:
        """The stream ended where ``size`` bytes were needed from ``start`` on."""
        self.set_error(-EIO)
        if not self.profile.eof_reads_as_zero:
            subject = f" for {what}" if what else ""
            raise LoadError(
                f"needed {size} bytes{subject}, {available} available",
                errno=EIO,
                offset=start,
                expected=size,
                actual=available,
            )

    def _padded(self, size: int, what: str) -> bytes:
        """``size`` bytes for an integer; at the end what is there, then zeros."""
        available = self._fill(size)
        if available < size:
            self._short(size, available, self.tell(), what)
        taken = bytes(self._buf[self._pos : self._pos + size])
        self._pos += len(taken)
        return taken.ljust(size, b"\0")

    # -- integers ---------------------------------------------------------------

    def get_byte(self, what: str = "") -> int:
        """One byte, 0..255 (``qemu_get_byte``)."""
        pos = self._pos
        if pos < self._end:
            self._pos = pos + 1
            return self._buf[pos]
        return self._padded(1, what)[0]

    def get_be16(self, what: str = "") -> int:
        """Two bytes, big-endian, unsigned (``qemu_get_be16``)."""
        pos = self._pos
        if pos + 2 <= self._end:
            self._pos = pos + 2
            return int(_U16(self._buf, pos)[0])
        return int.from_bytes(self._padded(2, what), "big")

    def get_be32(self, what: str = "") -> int:
        """Four bytes, big-endian, unsigned (``qemu_get_be32``)."""
        pos = self._pos
        if pos + 4 <= self._end:
            self._pos = pos + 4
            return int(_U32(self._buf, pos)[0])
        return int.from_bytes(self._padded(4, what), "big")

    def get_be64(self, what: str = "") -> int:
        """Eight bytes, big-endian, unsigned (``qemu_get_be64``)."""
        pos = self._pos
        if pos + 8 <= self._end:
            self._pos = pos + 8
            return int(_U64(self._buf, pos)[0])
        return int.from_bytes(self._padded(8, what), "big")

    def get_s8(self, what: str = "") -> int:
        """One byte, -128..127."""
        value = self.get_byte(what)
        return value - 0x100 if value > 0x7F else value

    def get_sbe16(self, what: str = "") -> int:
        """Two bytes, big-endian, two's complement (``qemu_get_sbe16``)."""
        return int(_S16(self.get_be16(what).to_bytes(2, "big"))[0])

    def get_sbe32(self, what: str = "") -> int:
        """Four bytes, big-endian, two's complement (``qemu_get_sbe32``)."""
        return int(_S32(self.get_be32(what).to_bytes(4, "big"))[0])

    def get_sbe64(self, what: str = "") -> int:
        """Eight bytes, big-endian, two's complement (``qemu_get_sbe64``)."""
        return int(_S64(self.get_be64(what).to_bytes(8, "big"))[0])

    # -- bytes -------------------------------------------------------------------

    def get_buffer(self, size: int, what: str = "") -> bytes:
        """``size`` bytes (``qemu_get_buffer``).

        Memory is taken as bytes arrive, so a claim of 2^32 costs nothing by
        itself.  Under ``eof_reads_as_zero`` the result may be shorter, as
        QEMU's return value may; a negative size reads nothing there.

        Raises:
            LoadError: the stream ends first (strict).
        """
        pos = self._pos
        if 0 <= size <= self._end - pos:
            self._pos = pos + size
            return bytes(self._buf[pos : pos + size])
        return self._get_long(size, what)

    def _get_long(self, size: int, what: str) -> bytes:
        if size < 0:
            if self.profile.counts_are_int:
                return b""
            raise LoadError(
                f"negative size {size} for {what or 'a buffer'}",
                offset=self.tell(),
                expected=0,
                actual=size,
            )
        start, pieces, missing = self.tell(), [], size
        while missing:
            available = min(self._fill(min(missing, IO_BUF_SIZE)), missing)
            if not available:
                self._short(size, size - missing, start, what)
                break
            pieces.append(bytes(self._buf[self._pos : self._pos + available]))
            self._pos += available
            missing -= available
        return b"".join(pieces)

    def skip_bytes(self, size: int, what: str = "") -> None:
        """Read ``size`` bytes and forget them (QEMU's ``get_unused_buffer``).

        Raises:
            LoadError: the stream ends first (strict), or the size is negative
                (unless ``counts_are_int``: nothing is read then).
        """
        if 0 <= size <= self._end - self._pos:
            self._pos += size
            return
        if size < 0:
            self._get_long(size, what)
            return
        start, remaining = self.tell(), size
        while remaining:
            taken = min(self._fill(min(remaining, IO_BUF_SIZE)), remaining)
            if not taken:
                self._short(size, size - remaining, start, what)
                return
            self._pos += taken
            remaining -= taken

    def peek_byte(self, offset: int = 0) -> int:
        """The byte ``offset`` ahead without consuming it; 0 past the end
        (``qemu_peek_byte``)."""
        if self._fill(offset + 1) <= offset:
            if self.profile.eof_reads_as_zero:
                self.set_error(-EIO)
            return 0
        return self._buf[self._pos + offset]

    def peek_buffer(self, size: int, offset: int = 0) -> bytes:
        """Up to ``size`` bytes from ``offset`` ahead, unconsumed
        (``qemu_peek_buffer``).  Shorter only at the end of the stream."""
        self._fill(offset + size)
        start = self._pos + offset
        return bytes(self._buf[start : min(start + size, self._end)])

    def skip(self, size: int) -> None:
        """Consume ``size`` bytes that were peeked at (``qemu_file_skip``).

        Raises:
            LoadError: as :meth:`skip_bytes`, unless ``skip_needs_buffered_bytes``.
        """
        if 0 <= size <= self._end - self._pos:
            self._pos += size
        elif not self.profile.skip_needs_buffered_bytes:
            self.skip_bytes(size)

    def window(self, size: int) -> tuple[Buffer, int, int]:
        """What is buffered, for loops that decode many items at once.

        Args:
            size: bytes the caller would like to see; fewer may be there.

        Returns:
            Buffer, index of the next byte in it, index past the last one.
            Valid until the next call of any other method; consume what was
            used with :meth:`advance`.
        """
        self._fill(size)
        return self._buf, self._pos, self._end

    def advance(self, size: int) -> None:
        """Consume ``size`` bytes of the last :meth:`window`."""
        if not 0 <= size <= self._end - self._pos:
            raise ValueError(f"{size} bytes were not in the window")
        self._pos += size

    def get_counted_string(self, what: str = "") -> str | None:
        """A length byte and that many bytes (``qemu_get_counted_string``).

        Returns:
            The name as Latin-1 text, so that any byte survives; ``None`` where
            the seed returns 0: at the end of the stream.  An empty name is
            ``""``.

        Raises:
            LoadError: the stream ends first (strict).
        """
        length = self.get_byte(what)
        if self._error:
            return None
        text = self.get_buffer(length, what)
        return None if len(text) < length else text.decode("latin-1")
