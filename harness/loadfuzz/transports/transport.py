"""One end of a connection, for a stream in each direction.

Everything that an end promises is said here, and checked by
:func:`loadfuzz.testing.check_transport`; what carries the bytes makes no difference.  An end
lives in one event loop, and may be given up there at any moment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBADF, ECONNRESET, EPIPE
from os import strerror
from typing import Final, Protocol

from savevm.qemufile.sources import Buffer

IN_FLIGHT_BYTES_MAX: Final = 1 << 20
"""Most bytes that have been written and not been read: what a transport keeps, the kernel's
share included.  A megabyte is more than any of ours takes, and nobody misses it."""
BUFFER_BYTES: Final = 1 << 16
"""What a transport asks its kernel to keep, and keeps itself: as much as a pipe of Linux."""
READ_BYTES_MAX: Final = 1 << 18
"""Most bytes of one read, so that a length's word alone allocates nothing."""


class Transport(Protocol):
    """One end of a connection.

    Bytes arrive in the order in which they were written, each once, until the end or an
    error.  One task may read while another one writes; of two that read, or two that write,
    the second gets a ``RuntimeError``, which is no ``OSError``: it is a mistake.
    """

    async def read(self, size: int) -> bytes:
        """Some of what the peer has written: what is there, up to ``size`` bytes.

        It waits only while there is nothing.  Cancellation loses no byte: what a cancelled
        read did not return, the next one does.

        Args:
            size: most bytes that are wanted, at least 1; fewer may come, for no reason.

        Returns:
            At least one byte; none where the peer has ended and everything that it wrote was
            read, now and, unless it aborts, ever after.

        Raises:
            ValueError: ``size`` is below 1.
            OSError: ``ECONNRESET``: the peer aborted, now and ever after; bytes that were under
                way may be lost.  ``EBADF``: this end is closed, even if that happened while
                the call waited.
        """

    async def write(self, data: Buffer) -> None:
        """Send all of ``data``; returns when all is under way, not when it was read.

        It waits while as much is under way as the transport keeps, never more than
        :data:`IN_FLIGHT_BYTES_MAX`.  After a cancellation or an error some bytes from the front
        of ``data`` are under way, and nobody knows how many.

        Raises:
            OSError: ``EPIPE`` or ``ECONNRESET``: the peer has closed or aborted.  A write may
                come too early to notice, but none waits for ever, and the peer's end of
                writing alone is no error.  ``EPIPE``: this end has ended its writing.
                ``EBADF``: it is closed, even if that happened while the call waited.
        """

    def write_eof(self) -> None:
        """End this direction: the peer reads what was written, and then the end.  The other one
        goes on.  Does not wait; at an end that is ended, closed or lost it does nothing."""

    def close(self) -> None:
        """Give up both directions.  Does not wait; calling it again does nothing.

        What was written before is still read by the peer, and then the end.  But a peer whose
        own bytes were not all read here may get ``ECONNRESET`` in place of either: on TCP the
        kernel tells it that they are lost.
        """

    def abort(self) -> None:
        """Tear the connection down: the peer gets ``ECONNRESET``, if not everything had ended
        before.  Does not wait; calling it again, or after :meth:`close`, does nothing."""


def closed_error() -> OSError:
    """This end was closed."""
    return OSError(EBADF, "this end of the connection is closed")


def reset_error() -> ConnectionResetError:
    """The peer has aborted."""
    return ConnectionResetError(ECONNRESET, strerror(ECONNRESET))


def broken_pipe_error() -> BrokenPipeError:
    """Nobody reads, or this end said that it would write no more."""
    return BrokenPipeError(EPIPE, strerror(EPIPE))


def check_size(size: int) -> None:
    """Whether ``size`` bytes can be read.

    Raises:
        ValueError: they cannot.
    """
    if size < 1:
        raise ValueError(f"a read asks for at least 1 byte, not {size}")


class Turn:
    """Refuses a second task that does what one is doing.

    Args:
        doing: what that is, such as ``read``.
    """

    __slots__ = ("_doing", "_taken")

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._taken = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """For as long as one does it.

        Raises:
            RuntimeError: another one does.
        """
        if self._taken:
            raise RuntimeError(f"another task is in the midst of a {self._doing} of this end")
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
