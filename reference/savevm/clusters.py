"""Sparse bytes in clusters: the contents of a simulated disk.

Clusters are immutable once written and shared between copies, as qcow2 shares
them between the active image and its snapshots: a copy costs one dict.
"""

from typing import Final

CLUSTER_SIZE: Final = 65_536
"""qcow2's default, so that what a snapshot discards ends where it does there."""


class SparseBytes:
    """Bytes at any offset; what was never written reads as zero.

    Attributes:
        end: one past the last byte ever written.
    """

    __slots__ = ("_clusters", "end")

    def __init__(self) -> None:
        self._clusters: dict[int, bytes] = {}
        self.end = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseBytes):
            return NotImplemented
        return self.end == other.end and self._clusters == other._clusters

    def copy(self) -> "SparseBytes":
        """The same contents, from here on apart."""
        twin = SparseBytes()
        twin._clusters = self._clusters.copy()
        twin.end = self.end
        return twin

    def allocated(self) -> int:
        """Bytes of memory the written clusters stand for."""
        return len(self._clusters) * CLUSTER_SIZE

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, zeros where nothing was written."""
        pieces: list[bytes] = []
        while size > 0:
            index, within = divmod(offset, CLUSTER_SIZE)
            part = min(CLUSTER_SIZE - within, size)
            cluster = self._clusters.get(index)
            pieces.append(bytes(part) if cluster is None else cluster[within : within + part])
            offset += part
            size -= part
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``."""
        position, self.end = 0, max(self.end, offset + len(data)) if data else self.end
        while position < len(data):
            index, within = divmod(offset + position, CLUSTER_SIZE)
            part = min(CLUSTER_SIZE - within, len(data) - position)
            piece = data[position : position + part]
            if part < CLUSTER_SIZE:
                old = self._clusters.get(index) or bytes(CLUSTER_SIZE)
                piece = b"".join((old[:within], piece, old[within + part :]))
            self._clusters[index] = piece
            position += part

    def discard_clusters(self, size: int) -> None:
        """Forget the clusters that hold the first ``size`` bytes, whole."""
        first_kept = -(-size // CLUSTER_SIZE)
        for index in [index for index in self._clusters if index < first_kept]:
            del self._clusters[index]
        if not self._clusters:
            self.end = 0
