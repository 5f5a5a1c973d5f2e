"""A simulated disk with internal snapshots and a VM state area, like qcow2.

Theory of operation.  The active image is two sparse areas: the disk the guest
sees, and behind it the VM state.  A snapshot is a copy of both at one moment;
going to it makes them the active image again, which is also how a VM state is
found after ``snapshot_goto``.  Creating a snapshot moves the VM state out of
the active image.  Failures are ``OSError`` with the errno QEMU returns.

Operations are small, so that a subclass can let any of them fail.  Sources:
QEMU ``block/snapshot.c``, ``block/qcow2-snapshot.c``, ``block/qcow2.c``.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from errno import EEXIST, EFBIG, EINVAL, EIO, ENOENT, ENOMEDIUM, ENOSPC, ENOTSUP, EPERM
from typing import Final

from savevm.clusters import SparseBytes
from savevm.qemufile.sources import Buffer
from savevm.snapshot_info import SnapshotInfo

MAX_SNAPSHOTS: Final = 65_536
"""Snapshots of one image (``QCOW_MAX_SNAPSHOTS``)."""
MAX_IN_FLIGHT: Final = 128
"""Writes that wait for a drain; one more and the disk drains by itself, as a
device with a full queue stops taking requests."""
MAX_VMSTATE: Final = 1 << 36
"""Bytes a VM state area grows to unless the caller says less: 64 GiB, more than
any machine here has RAM, and the end of a writer that never stops."""

_DIGITS_MAX: Final = 19
"""Digits of an id that count: what surely fits C's ``unsigned long``."""


def _refuse(code: int, text: str = "") -> OSError:
    return OSError(code, text or os.strerror(code))


@dataclass(frozen=True, slots=True)
class BlockSnapshot:
    """A snapshot and what it holds."""

    info: SnapshotInfo
    disk: SparseBytes
    disk_size: int
    vmstate: SparseBytes


@dataclass(frozen=True, slots=True)
class BlockCheckpoint:
    """Everything a disk held at one moment; compares by contents."""

    disk: SparseBytes
    size: int
    vmstate: SparseBytes
    snapshots: tuple[BlockSnapshot, ...]
    in_flight: tuple[tuple[int, bytes], ...]


class BlockDevice:
    """One disk (``BlockDriverState`` with a qcow2 image).

    Args:
        name: device name, as messages show it.
        size: bytes the guest sees.
        read_only: neither written nor snapshotted.
        inserted: there is a medium.
        internal_snapshots: the image format has them (raw has not).
        zeros_past_end: VM state past what was written reads as zeros, as from
            qcow2; false ends the area there, as a format with a length does.
        vmstate_limit: bytes the VM state area may grow to (then ``ENOSPC``).

    Attributes:
        flushes, drains: how often each was asked for, for tests of order.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        read_only: bool = False,
        inserted: bool = True,
        internal_snapshots: bool = True,
        zeros_past_end: bool = True,
        vmstate_limit: int = MAX_VMSTATE,
    ) -> None:
        self.name = name
        self.size = size
        self.read_only = read_only
        self.inserted = inserted
        self.internal_snapshots = internal_snapshots
        self.zeros_past_end = zeros_past_end
        self.vmstate_limit = vmstate_limit
        self.flushes = 0
        self.drains = 0
        self._disk = SparseBytes()
        self._vmstate = SparseBytes()
        self._snapshots: list[BlockSnapshot] = []
        self._in_flight: list[tuple[int, bytes]] = []

    def can_snapshot(self) -> bool:
        """``bdrv_can_snapshot``."""
        return self.inserted and not self.read_only and self.internal_snapshots

    # -- the guest's disk --------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the disk.

        Raises:
            OSError: no medium (``ENOMEDIUM``), or past the end (``EIO``).
        """
        self._check_request(offset, size)
        return self._disk.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the disk at once.

        Raises:
            OSError: as for reading, or read-only (``EPERM``).
        """
        self._check_request(offset, len(data), write=True)
        self._disk.write(offset, data)

    def submit_write(self, offset: int, data: bytes) -> None:
        """Start a write that reaches the disk by the next :meth:`drain`.

        Raises:
            OSError: as for :meth:`write`, and at once.
        """
        self._check_request(offset, len(data), write=True)
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            self.drain()
        self._in_flight.append((offset, bytes(data)))

    def drain(self) -> None:
        """Complete every request that is under way (``bdrv_drain``).

        Raises:
            OSError: a request cannot be completed; it stays under way, as with
                QEMU's ``werror=stop``.  Not here: in a subclass.
        """
        self.drains += 1
        for offset, data in self._in_flight:
            self._disk.write(offset, data)
        self._in_flight.clear()

    def flush(self) -> None:
        """Make what was written stable (``bdrv_flush``); nothing to do for an
        empty drive or a read-only disk.

        Raises:
            OSError: it cannot be.  Not here: in a subclass.
        """
        self.flushes += 1

    def _check_request(self, offset: int, size: int, *, write: bool = False) -> None:
        if not self.inserted:
            raise _refuse(ENOMEDIUM)
        if write and self.read_only:
            raise _refuse(EPERM)
        if offset < 0 or size < 0 or offset + size > self.size:
            raise _refuse(EIO)

    # -- the VM state area -------------------------------------------------------

    def save_vmstate(self, data: Buffer, position: int) -> None:
        """Write one piece of VM state (``bdrv_save_vmstate``)."""
        self.writev_vmstate((data,), position)

    def writev_vmstate(self, pieces: Sequence[Buffer], position: int) -> None:
        """Write VM state, the first piece at byte ``position`` of the area.

        Raises:
            OSError: no medium (``ENOMEDIUM``), no such area (``ENOTSUP``),
                read-only (``EPERM``), full (``ENOSPC``; what fitted is there).
        """
        self._check_vmstate(position)
        if self.read_only:
            raise _refuse(EPERM)
        data = b"".join(pieces)
        room = max(self.vmstate_limit - position, 0)
        self._vmstate.write(position, data[:room])
        if len(data) > room:
            raise _refuse(ENOSPC)

    def load_vmstate(self, position: int, size: int) -> bytes:
        """Read VM state of the active image (``bdrv_load_vmstate``).

        Returns:
            ``size`` bytes, zeros where nothing was written; without
            ``zeros_past_end`` fewer at the end of what was written.

        Raises:
            OSError: no medium (``ENOMEDIUM``) or no such area (``ENOTSUP``).
        """
        self._check_vmstate(position)
        if not self.zeros_past_end:
            size = min(size, self._vmstate.end - position)
        return self._vmstate.read(position, size)

    def vmstate_end(self) -> int:
        """One past the last byte written to the active VM state area."""
        return self._vmstate.end

    def _check_vmstate(self, position: int) -> None:
        if not self.inserted:
            raise _refuse(ENOMEDIUM)
        if not self.internal_snapshots:
            raise _refuse(ENOTSUP)
        if position < 0:
            raise _refuse(EINVAL)

    # -- snapshots ---------------------------------------------------------------

    def snapshot_list(self) -> list[SnapshotInfo]:
        """All snapshots, oldest first (``bdrv_snapshot_list``).

        Raises:
            OSError: no medium (``ENOMEDIUM``) or no snapshots (``ENOTSUP``).
        """
        self._check_snapshots()
        return [snapshot.info for snapshot in self._snapshots]

    def snapshot_find(self, id_or_name: str) -> SnapshotInfo:
        """The first snapshot of that id or name (``bdrv_snapshot_find``).

        Raises:
            OSError: there is none, or the list cannot be had (``ENOENT`` both).
        """
        try:
            snapshots = self.snapshot_list()
        except OSError as error:
            raise _refuse(ENOENT) from error
        for info in snapshots:
            if info.goes_by(id_or_name):
                return info
        raise _refuse(ENOENT)

    def snapshot_create(self, info: SnapshotInfo) -> SnapshotInfo:
        """Make a snapshot of disk and VM state (``bdrv_snapshot_create``).

        The VM state leaves the active image, in whole clusters.

        Args:
            info: as it shall be; an empty ``id_str`` is chosen here.

        Returns:
            The same with its id.

        Raises:
            OSError: no medium (``ENOMEDIUM``), no snapshots (``ENOTSUP``),
                too many (``EFBIG``), the id is taken (``EEXIST``).
        """
        self._check_snapshots()
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise _refuse(EFBIG)
        if not info.id_str:
            info = replace(info, id_str=self._new_id())
        if any(snapshot.info.id_str == info.id_str for snapshot in self._snapshots):
            raise _refuse(EEXIST)
        snapshot = BlockSnapshot(info, self._disk.copy(), self.size, self._vmstate.copy())
        self._snapshots.append(snapshot)
        self._vmstate.discard_clusters(info.vm_state_size)
        return info

    def snapshot_delete(self, id_str: str | None, name: str | None) -> None:
        """Delete the snapshot of that id, that name, or both (``bdrv_snapshot_delete``).

        Raises:
            OSError: no medium, no snapshots, or ``ENOENT``; its text is QEMU's.
        """
        if not self.inserted:
            raise _refuse(ENOMEDIUM, f"Device '{self.name}' has no medium")
        if id_str is None and name is None:
            raise _refuse(EINVAL, "snapshot_id and name are both NULL")
        if not self.internal_snapshots:
            raise _refuse(
                ENOTSUP,
                f"Block format 'raw' used by device '{self.name}' does not support feature "
                "'internal snapshot deletion'",
            )
        self.drain()
        for snapshot in self._snapshots:
            info = snapshot.info
            if id_str in (None, info.id_str) and name in (None, info.name):
                self._snapshots.remove(snapshot)
                return
        raise _refuse(ENOENT, "Can't find the snapshot")

    def snapshot_delete_by_id_or_name(self, id_or_name: str) -> None:
        """Delete the snapshot of that id, or else the first of that name.

        Raises:
            OSError: as for :meth:`snapshot_delete`.
        """
        try:
            self.snapshot_delete(id_or_name, None)
        except OSError as error:
            if error.errno not in (ENOENT, EINVAL):
                raise
            self.snapshot_delete(None, id_or_name)

    def snapshot_goto(self, id_or_name: str) -> None:
        """Make a snapshot's disk and VM state the active ones (``bdrv_snapshot_goto``).

        Raises:
            OSError: no medium (``ENOMEDIUM``), no snapshots (``ENOTSUP``), no
                such snapshot (``ENOENT``), the disk had another size then
                (``ENOTSUP``).
        """
        self._check_snapshots()
        snapshot = self._by_id_or_name(id_or_name)
        if snapshot is None:
            raise _refuse(ENOENT)
        if snapshot.disk_size != self.size:
            raise _refuse(
                ENOTSUP, "qcow2: Loading snapshots with different disk size is not implemented"
            )
        self._disk = snapshot.disk.copy()
        self._vmstate = snapshot.vmstate.copy()

    def _by_id_or_name(self, id_or_name: str) -> BlockSnapshot | None:
        # Unlike snapshot_find: every id is tried before any name.
        for key in ("id_str", "name"):
            for snapshot in self._snapshots:
                if getattr(snapshot.info, key) == id_or_name:
                    return snapshot
        return None

    def _new_id(self) -> str:
        return next_id(snapshot.info for snapshot in self._snapshots)

    def _check_snapshots(self) -> None:
        if not self.inserted:
            raise _refuse(ENOMEDIUM)
        if not self.internal_snapshots:
            raise _refuse(ENOTSUP)

    # -- all of it -----------------------------------------------------------------

    def checkpoint(self) -> BlockCheckpoint:
        """Everything as it is now; cheap, since clusters are shared."""
        return BlockCheckpoint(
            self._disk.copy(),
            self.size,
            self._vmstate.copy(),
            tuple(self._snapshots),
            tuple(self._in_flight),
        )

    def restore(self, checkpoint: BlockCheckpoint) -> None:
        """Put everything back as it was.

        Raises:
            OSError: it cannot be written.  Not here: in a subclass.
        """
        self._disk = checkpoint.disk.copy()
        self.size = checkpoint.size
        self._vmstate = checkpoint.vmstate.copy()
        self._snapshots = list(checkpoint.snapshots)
        self._in_flight = list(checkpoint.in_flight)


def next_id(snapshots: Iterable[SnapshotInfo]) -> str:
    """The id after the greatest of ``snapshots`` (``find_new_snapshot_id``)."""
    return str(max([0, *(_leading_number(info.id_str) for info in snapshots)]) + 1)


def _leading_number(id_str: str) -> int:
    """What C's ``strtoul`` makes of an id: its leading digits, or 0."""
    digits = id_str[: len(id_str) - len(id_str.lstrip("0123456789"))]
    return int(digits[:_DIGITS_MAX]) if digits else 0
