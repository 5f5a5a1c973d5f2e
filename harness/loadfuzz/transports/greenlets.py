"""Plain synchronous loaders and savers on an asyncio transport.

The reference's loader says ``f.get_be32()`` and knows of no event loop; QEMU's own runs in a
stackful coroutine that gives way where its socket is dry (``qemu_loadvm_state`` under
``process_incoming_migration_co``).  Here a greenlet does: a :class:`TransportSource` whose
transport has nothing yet suspends all of the loader, and the task that drives it waits in its
place (:mod:`loadfuzz.bridge`).  A cancelled task throws its ``CancelledError`` into the loader
at that read, which unwinds as from any other error: a strict one rolls back.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from loadfuzz.bridge import drive, wait
from loadfuzz.transports.transport import Transport
from savevm.qemufile.sources import Buffer

T = TypeVar("T")


class TransportSource:
    """What a transport reads, for a QEMUFile (:class:`savevm.qemufile.Source`).

    Args:
        transport: where the stream comes from.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def read(self, size: int) -> Buffer:
        """1 to ``size`` bytes, none at the end; only within :func:`loadfuzz.bridge.drive`.

        Raises:
            OSError: the connection has failed.
            asyncio.CancelledError: the task was cancelled.
        """
        return wait(self._transport.read(size))

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class TransportSink:
    """What a QEMUFile writes, to a transport (:class:`savevm.qemufile.Sink`).

    Args:
        transport: where the stream goes.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        """Write all pieces; only within :func:`loadfuzz.bridge.drive`.

        Raises:
            OSError: the connection has failed.
            asyncio.CancelledError: the task was cancelled.
        """
        del position  # a QEMUFile writes in order
        wait(self._transport.write(b"".join(pieces)))

    def close(self) -> None:
        """End the stream; the transport stays open, since an answer may come."""
        self._transport.write_eof()


async def load_from(transport: Transport, load: Callable[[TransportSource], T]) -> T:
    """Run a plain loader on a transport, in the present task.

    Args:
        transport: where its stream comes from.
        load: is given the source, and may read from it as deep inside as it likes.

    Raises:
        BaseException: whatever ``load`` raises, ``CancelledError`` included; nothing of it is
            left behind.
    """
    return await drive(lambda: load(TransportSource(transport)))


async def save_to(transport: Transport, save: Callable[[TransportSink], T]) -> T:
    """Run plain code that saves to a transport, in the present task.

    Args:
        transport: where the stream goes.
        save: is given the sink.

    Raises:
        BaseException: whatever ``save`` raises.
    """
    return await drive(lambda: save(TransportSink(transport)))
