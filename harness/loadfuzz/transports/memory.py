"""A connection within one event loop: two buffers, no kernel, no time.

What happens depends on nothing but the order in which tasks run, so on a virtual loop the same
program is the same run.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from loadfuzz.transports.transport import (
    BUFFER_BYTES,
    Turn,
    broken_pipe_error,
    check_size,
    closed_error,
    reset_error,
)
from savevm.qemufile.sources import Buffer

Waiter: TypeAlias = "asyncio.Future[None] | None"


class _Direction:
    """Bytes under way from one end to the other.

    Attributes:
        data: written and not yet read.
        capacity: most bytes of it.
        ended: the writer has ended.
        unread: the reader has closed.
        reset: one end has aborted.
        reader, writer: who waits for bytes, and for room.
    """

    __slots__ = ("capacity", "data", "ended", "reader", "reset", "unread", "writer")

    def __init__(self, capacity: int) -> None:
        self.data = bytearray()
        self.capacity = capacity
        self.ended = self.unread = self.reset = False
        self.reader: Waiter = None
        self.writer: Waiter = None

    def wake(self) -> None:
        """Let who waits look again."""
        for waiter in (self.reader, self.writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def drop(self) -> None:
        """Nobody will read what is under way."""
        self.data.clear()
        self.wake()


class MemoryTransport:
    """See :class:`loadfuzz.transports.transport.Transport`.

    Args:
        incoming: what the peer writes.
        outgoing: what it reads.
    """

    __slots__ = ("_closed", "_incoming", "_outgoing", "_reading", "_writing")

    def __init__(self, incoming: _Direction, outgoing: _Direction) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False
        self._reading = Turn("read")
        self._writing = Turn("write")

    async def read(self, size: int) -> bytes:
        """See :meth:`loadfuzz.transports.transport.Transport.read`."""
        check_size(size)
        way = self._incoming
        with self._reading.taken():
            # Each turn waits for a change, and there are as many as the peer makes.
            while True:
                if self._closed:
                    raise closed_error()
                if way.reset:
                    raise reset_error()
                if way.data:
                    data = bytes(way.data[:size])
                    del way.data[: len(data)]
                    way.wake()
                    return data
                if way.ended:
                    return b""
                way.reader = asyncio.get_running_loop().create_future()
                await way.reader

    async def write(self, data: Buffer) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write`."""
        way = self._outgoing
        with self._writing.taken(), memoryview(data).cast("B") as view:
            at = 0
            while True:
                if self._closed:
                    raise closed_error()
                if way.reset:
                    raise reset_error()
                if way.ended or way.unread:
                    raise broken_pipe_error()
                if room := way.capacity - len(way.data):
                    way.data += view[at : at + room]
                    at += room
                    way.wake()
                if at >= len(view):
                    return
                way.writer = asyncio.get_running_loop().create_future()
                await way.writer

    def write_eof(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write_eof`."""
        self._outgoing.ended = True
        self._outgoing.wake()

    def close(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.close`."""
        if not self._closed:
            self._closed = True
            self.write_eof()
            self._incoming.unread = True
            self._incoming.drop()

    def abort(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.abort`."""
        if not self._closed:
            self._closed = True
            for way in (self._incoming, self._outgoing):
                way.reset = True
                way.drop()


@asynccontextmanager
async def memory_pair(
    capacity: int = BUFFER_BYTES,
) -> AsyncIterator[tuple[MemoryTransport, MemoryTransport]]:
    """Two ends of a connection, closed with the block.

    Args:
        capacity: bytes of each direction that are under way before a writer waits; 1 or more.

    Raises:
        ValueError: the capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"a connection has room for at least 1 byte, not {capacity}")
    one, other = _Direction(capacity), _Direction(capacity)
    ends = MemoryTransport(one, other), MemoryTransport(other, one)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()
