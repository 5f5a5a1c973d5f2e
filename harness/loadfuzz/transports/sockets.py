"""One end of a connection that is a stream socket, Unix or TCP."""

import socket
import struct
from contextlib import suppress
from typing import Final

from loadfuzz.transports.descriptors import DescriptorTransport
from loadfuzz.transports.transport import BUFFER_BYTES

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""``struct linger``: on, for 0 seconds.  TCP answers a close with a reset then."""


class SocketTransport(DescriptorTransport):
    """One end; it owns the socket (see :class:`DescriptorTransport`).

    Args:
        connected: a stream socket.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        super().__init__(connected.fileno(), connected.fileno())
        self._socket = connected

    def _end_writing(self) -> None:
        # A connection that was reset has nothing to shut down any more.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _give_back(self) -> None:
        self._socket.close()

    def _prepare_reset(self) -> None:
        # A Unix socket takes no notice of it.
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def keep_buffers_small(made: socket.socket) -> None:
    """Have the kernel keep :data:`BUFFER_BYTES` for each direction, and not what it likes.

    Raises:
        OSError: it does not.
    """
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
