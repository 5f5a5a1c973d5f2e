"""The way out of an outgoing migration, and its point of no return.

Theory of operation.  A destination takes over once it has the end mark of the
stream.  From then on the source must not run again, and nobody can cancel.  The
end mark is in the last piece that a save writes; so while a migration completes,
the channel keeps back the newest piece until the next one comes, and the last
one until :meth:`MigrationChannel.commit`.  Whatever goes wrong before leaves a
destination that never saw the end.

Sources: ``to_dst_file`` of QEMU ``migration/migration.c``, and
``qemu_file_shutdown`` of ``migration/qemu-file.c``.
"""

from collections.abc import Sequence
from errno import ECANCELED

from savevm.qemufile import Buffer, Sink


class MigrationChannel:
    """A sink in front of the sink.

    Args:
        sink: where the stream goes.

    Attributes:
        bytes_sent: bytes that the sink has taken.
        committed: the last piece is on its way, or there.
        failure: what the sink raised, ``None`` if it did not.
    """

    def __init__(self, sink: Sink) -> None:
        self.bytes_sent = 0
        self.committed = False
        self.failure: OSError | None = None
        self._sink = sink
        self._keeps_last = False
        self._kept: tuple[bytes, int] | None = None
        self._shut = False

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        """Pass ``pieces`` on, or keep them back and pass on what was kept.

        Raises:
            OSError: the sink's, or that the channel was shut down.
        """
        if not self._keeps_last:
            self._send(pieces, position)
            return
        earlier, self._kept = self._kept, (b"".join(pieces), position)
        if earlier is not None:
            self._send(earlier[:1], earlier[1])

    def keep_last(self) -> None:
        """From now on the newest piece waits for the next one, or the commit."""
        self._keeps_last = True

    def commit(self) -> None:
        """Send the last piece: the destination may take over.

        Raises:
            OSError: as :meth:`writev`.
        """
        last, self._kept = self._kept, None
        self._keeps_last = False
        if last is not None:
            self._refuse_if_shut()
            self.committed = True
            self._send(last[:1], last[1])

    def shutdown(self) -> None:
        """No piece is passed on any more; one that is on its way goes on
        (``qemu_file_shutdown``)."""
        self._shut = True

    def close(self) -> None:
        """Close the sink.

        Raises:
            OSError: the sink's.
        """
        try:
            self._sink.close()
        except OSError as error:
            self._note(error)
            raise

    def _send(self, pieces: Sequence[Buffer], position: int) -> None:
        self._refuse_if_shut()
        try:
            self._sink.writev(pieces, position)
        except OSError as error:
            self._note(error)
            raise
        self.bytes_sent += sum(len(piece) for piece in pieces)

    def _refuse_if_shut(self) -> None:
        if self._shut:
            raise OSError(ECANCELED, "the channel was shut down")

    def _note(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = error
