"""A pair of Unix stream sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadfuzz.errors import InfraError
from loadfuzz.transports.sockets import SocketTransport, keep_buffers_small


@asynccontextmanager
async def unix_pair() -> AsyncIterator[tuple[SocketTransport, SocketTransport]]:
    """Two ends of a connection, closed with the block; it has no name that others could see.

    A Unix socket knows no reset but where bytes were left unread, so the ends tell each other.

    Raises:
        InfraError: the kernel gives none.
    """
    try:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise InfraError(f"no Unix socket: {error}; raise `ulimit -n`") from error
    with ends[0], ends[1]:
        for end in ends:
            keep_buffers_small(end)
        one, other = map(SocketTransport, ends)
        one.peer, other.peer = other, one
        try:
            yield one, other
        finally:
            one.close()
            other.close()
