"""A QEMUFile over the VM state area of a disk (``qemu_fopen_bdrv``).

Source: ``bdrv_read_ops`` and ``bdrv_write_ops`` of QEMU ``migration/savevm.c``.
The seed also has ``block_put_buffer``, which loses write errors; a file with a
``writev_buffer`` never calls it, so it has no counterpart of its own here.
"""

from collections.abc import Sequence
from typing import Protocol

from savevm.qemufile.sources import Buffer


class VMStateArea(Protocol):
    """What a file needs of a disk."""

    def writev_vmstate(self, pieces: Sequence[Buffer], position: int) -> None:
        """Write all pieces, the first at ``position``.  May raise ``OSError``."""

    def load_vmstate(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end.  May raise ``OSError``."""

    def flush(self) -> None:
        """Make what was written stable.  May raise ``OSError``."""


class BlockSource:
    """Reads the area from its beginning.

    Args:
        area: the disk.
        size: bytes after which the state ends; ``None`` reads on for as long as
            the disk gives bytes, which for qcow2 is for ever: zeros.
    """

    def __init__(self, area: VMStateArea, size: int | None = None) -> None:
        self._area = area
        self._size = size
        self._position = 0
        self._closed = False

    def read(self, size: int) -> Buffer:
        if self._size is not None:
            size = min(size, self._size - self._position)
        if size <= 0:
            return b""
        data = self._area.load_vmstate(self._position, size)
        self._position += len(data)
        return data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._area.flush()


class BlockSink:
    """Writes the area from its beginning; closing it flushes the disk."""

    def __init__(self, area: VMStateArea) -> None:
        self._area = area
        self._closed = False

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        self._area.writev_vmstate(pieces, position)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._area.flush()
