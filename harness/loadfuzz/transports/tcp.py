"""Two TCP sockets, connected over the loopback interface."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.transports.sockets import SocketTransport, keep_buffers_small

LOOPBACK: Final = "127.0.0.1"
CONNECT_S: Final = 5.0
"""Real seconds that a connection to this machine may take; it takes microseconds."""
STRANGERS_MAX: Final = 8
"""Others on this machine who happen to connect to the port while it listens."""


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[SocketTransport, SocketTransport]]:
    """Two ends of a connection, closed with the block.  Nothing listens any more by then.

    Raises:
        InfraError: this machine does not let itself be connected to.
    """
    try:
        ends = _connected()
    except OSError as error:
        raise InfraError(
            f"no TCP connection over {LOOPBACK}: {error}; use the transport unix or memory instead"
        ) from error
    with ends[0], ends[1]:
        one, other = map(SocketTransport, ends)
        try:
            yield one, other
        finally:
            one.close()
            other.close()


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # What is accepted inherits its sizes.
        keep_buffers_small(listener)
        listener.settimeout(CONNECT_S)
        listener.bind((LOOPBACK, 0))
        listener.listen(STRANGERS_MAX)
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            keep_buffers_small(client)
            client.settimeout(CONNECT_S)
            client.connect(listener.getsockname())
            server = _accepted(listener, client.getsockname())
        except OSError:
            client.close()
            raise
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


def _accepted(listener: socket.socket, wanted: object) -> socket.socket:
    for _ in range(STRANGERS_MAX):
        server, address = listener.accept()
        if address == wanted:
            return server
        server.close()
    raise ConnectionError("somebody else connects all the time")
