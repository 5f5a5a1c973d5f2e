"""A connection through the kernel: what pipes and sockets have in common.

Theory of operation.  A file descriptor does not block.  Who finds nothing there, or no room,
waits until the event loop says that there may be, and then tries again himself: the bytes are
taken in the same step in which they are returned, so a cancellation cannot come between.
(``loop.sock_recv`` takes them in a callback, where a cancelled reader loses them.)

Only TCP can tell its peer of an abort.  Where the peer is of this process, which is what a
pair is, the end that aborts tells the other one itself.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from loadfuzz.transports.transport import (
    READ_BYTES_MAX,
    Turn,
    broken_pipe_error,
    check_size,
    closed_error,
    reset_error,
)
from savevm.qemufile.sources import Buffer

WRITE_BYTES_MAX: Final = 1 << 18
"""Most bytes that the kernel is offered at once."""


class DescriptorTransport(ABC):
    """See :class:`loadfuzz.transports.transport.Transport`.

    Args:
        incoming: file descriptor to read from; it does not block.
        outgoing: to write to; it may be the same.

    Attributes:
        peer: the other end, where that is of this process and the kernel cannot tell it of an
            abort.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = self._ended = self._reset = False
        self._reading = Turn("read")
        self._writing = Turn("write")
        self._stop_waiting: dict[str, Callable[[], None]] = {}
        self.peer: DescriptorTransport | None = None

    async def read(self, size: int) -> bytes:
        """See :meth:`loadfuzz.transports.transport.Transport.read`."""
        check_size(size)
        with self._reading.taken():
            while True:
                if self._closed:
                    raise closed_error()
                if self._reset:
                    raise reset_error()
                try:
                    return os.read(self._incoming, min(size, READ_BYTES_MAX))
                except BlockingIOError:
                    await self._until_readable()
                except ConnectionResetError:
                    # The kernel says so once, and then that this is the end.
                    self._reset = True

    async def write(self, data: Buffer) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write`."""
        with self._writing.taken(), memoryview(data).cast("B") as view:
            at = 0
            while True:
                if self._closed:
                    raise closed_error()
                if self._reset:
                    raise reset_error()
                if self._ended:
                    raise broken_pipe_error()
                if at >= len(view):
                    return
                try:
                    at += os.write(self._outgoing, view[at : at + WRITE_BYTES_MAX])
                except BlockingIOError:
                    await self._until_writable()
                except ConnectionResetError:
                    self._reset = True

    def write_eof(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write_eof`."""
        if not (self._closed or self._ended):
            self._ended = True
            self._wake()
            self._end_writing()

    def close(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.close`."""
        if not self._closed:
            self._closed = True
            # Before the numbers of the descriptors may be anybody else's.
            self._wake()
            self._give_back()

    def abort(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.abort`."""
        if not self._closed:
            self._prepare_reset()
            if self.peer is not None:
                self.peer.hear_of_reset()
            self.close()

    def hear_of_reset(self) -> None:
        """The peer has aborted."""
        self._reset = True
        self._wake()

    @abstractmethod
    def _end_writing(self) -> None:
        """Tell the kernel that this direction has ended."""

    @abstractmethod
    def _give_back(self) -> None:
        """Close the descriptors."""

    def _prepare_reset(self) -> None:
        """Make a reset of the close that follows, where the kernel can."""
        return  # most cannot

    # -- waiting for the kernel ------------------------------------------------------------------

    async def _until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        loop.add_reader(self._incoming, _wake_up, waiter)
        await self._until("read", waiter, loop.remove_reader, self._incoming)

    async def _until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        loop.add_writer(self._outgoing, _wake_up, waiter)
        await self._until("write", waiter, loop.remove_writer, self._outgoing)

    async def _until(
        self,
        doing: str,
        waiter: "asyncio.Future[None]",
        remove: Callable[[int], bool],
        descriptor: int,
    ) -> None:
        def stop() -> None:
            remove(descriptor)
            _wake_up(waiter)

        self._stop_waiting[doing] = stop
        try:
            await waiter
        finally:
            # Unless somebody else did, who may have closed it since.
            if self._stop_waiting.get(doing) is stop:
                del self._stop_waiting[doing]
                remove(descriptor)

    def _wake(self) -> None:
        """Let who waits look again."""
        stops, self._stop_waiting = self._stop_waiting, {}
        for stop in stops.values():
            stop()


def _wake_up(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
