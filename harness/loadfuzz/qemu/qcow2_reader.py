"""The internal snapshots of any qcow2 image, and the VM state that each of them holds.

Not a block driver: guest disks, refcounts and backing files are not looked at.  What is
read from an image is a lie until it is checked against the file's own size: a hostile or
cut-off image is refused, and never costs more memory than a small multiple of its size.

Follows QEMU ``docs/interop/qcow2.txt`` and, where that leaves room, what
``block/qcow2-snapshot.c`` (``qcow2_do_read_snapshots``) and ``block/qcow2-cluster.c``
(``qcow2_get_host_offset``) do.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from loadfuzz.errors import InfraError, UsageError

MAGIC: Final = b"QFI\xfb"
HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
"""Up to where version 2 ends: magic, version, backing file offset and size, cluster bits, disk
size, encryption, L1 entries and offset, refcount table offset and clusters, snapshots and
offset of their table."""
FEATURES: Final = struct.Struct(">QQQII")
"""What version 3 has after it: features that are incompatible, compatible and cleared by who
does not know them; refcount order; length of the header."""
ENTRY: Final = struct.Struct(">QIHHIIQII")
"""A snapshot table entry: L1 offset and entries, lengths of id and name, date in s and ns, guest
clock in ns, VM state size, length of the extra data (``QCowSnapshotHeader``)."""
EXTRA: Final = struct.Struct(">QQ")
"""Extra data that version 3 must have: VM state size and disk size, each 64 bits wide."""
ENTRY_ALIGNMENT: Final = 8
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
"""Bits of an L1 or L2 entry that hold a host offset."""

CLUSTER_BITS: Final = range(9, 22)
"""Cluster sizes of 512 bytes to 2 MiB, as ``MIN_`` and ``MAX_CLUSTER_BITS`` of block/qcow2.h."""
SNAPSHOTS_MAX: Final = 65_536
"""``QCOW_MAX_SNAPSHOTS`` of block/qcow2.h."""
SNAPSHOT_TABLE_MAX: Final = 1024 * SNAPSHOTS_MAX
"""Bytes, ``QCOW_MAX_SNAPSHOTS_SIZE`` of block/qcow2.h."""
EXTRA_MAX: Final = 1024
"""Bytes, ``QCOW_MAX_SNAPSHOT_EXTRA_DATA`` of block/qcow2.h."""
L1_MAX: Final = (32 << 20) // 8
"""Entries, ``QCOW_MAX_L1_SIZE`` of block/qcow2.h."""
ID_MAX: Final = 127
"""Bytes of an id that QEMU compares (``QEMUSnapshotInfo`` in block/snapshot.h)."""
NAME_MAX: Final = 255
"""The same, of a name."""
VMSTATE_MAX: Final = 1 << 30
"""Bytes of VM state; a machine with more memory is no seed."""
_NAMES_SHOWN_MAX: Final = 8
"""Snapshots that an error message lists."""

_EXTERNAL_DATA: Final = 1 << 2
_EXTENDED_L2: Final = 1 << 4
_FEATURES_KNOWN: Final = 0b1_1111
"""Dirty, corrupt, external data, compression type, extended L2 entries."""
_COMPRESSED: Final = 1 << 62
_ZERO: Final = 1 << 0
_SUBCLUSTER_MIN: Final = 512
"""Bytes, as QEMU demands (``qcow2_do_open``); less would make a list of tiny pieces."""
_SUBCLUSTERS: Final = 32
"""Parts of a cluster that an extended L2 entry has bits for: allocated below, zero above."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An entry of the snapshot table.

    Attributes:
        id: QEMU's number for it, as text.
        name: what ``loadvm`` is given, at most :data:`NAME_MAX` bytes; those that are no UTF-8
            are escaped with backslashes.
        vmstate_size: bytes of VM state; 0 when it holds a disk only.
        disk_size: bytes of the guest disk when it was taken.
        date_s: when it was taken, in seconds since 1970.
        date_ns: nanoseconds beyond that.
        clock_ns: the guest's clock then.
        l1_offset: host offset of its L1 table.
        l1_entries: length of that table.
    """

    id: str
    name: str
    vmstate_size: int
    disk_size: int
    date_s: int
    date_ns: int
    clock_ns: int
    l1_offset: int
    l1_entries: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of VM state within one cluster.

    Attributes:
        offset: in the file; ``None`` where nothing is stored and zeros are read.
        size: bytes.
    """

    offset: int | None
    size: int


def snapshots(path: Path) -> tuple[Snapshot, ...]:
    """The internal snapshots of an image, in its own order.

    Raises:
        UsageError: this is no qcow2 image, it is damaged, or it uses what is not read here.
        InfraError: the file system failed.
    """
    with ImageFile.opened(path) as image:
        return image.snapshots()


def vmstate(path: Path, name: str) -> bytes:
    """The VM state of the first snapshot called ``name``: what ``loadvm`` would be given.

    Args:
        path: of the image.
        name: as in :attr:`Snapshot.name`.

    Returns:
        As many bytes as the snapshot says; what was never stored is zeros.

    Raises:
        UsageError: no such snapshot, it has no VM state or more than :data:`VMSTATE_MAX`
            bytes, or as :func:`snapshots`.
        InfraError: the file system failed.
    """
    with ImageFile.opened(path) as image:
        known = image.snapshots()
        for snapshot in known:
            if snapshot.name == name:
                return image.vmstate(snapshot)
    some = ", ".join(repr(each.name) for each in known[:_NAMES_SHOWN_MAX])
    more = ", ..." if len(known) > _NAMES_SHOWN_MAX else ""
    raise UsageError(f"{path} has no snapshot {name!r}; it has {some or 'none'}{more}")


def _c_string(raw: bytes, size_max: int) -> str:
    """Text as far as QEMU sees it."""
    return raw[:size_max].split(b"\0", 1)[0].decode(errors="backslashreplace")


class ImageFile:
    """An open image; every read is checked against the file's size first.

    Args:
        path: for error messages.
        descriptor: of the file, open for reading; stays the caller's.

    Raises:
        UsageError, InfraError: as :func:`snapshots`.
    """

    __slots__ = (
        "_descriptor", "_disk_size", "_entry_size", "_path", "_size", "_snapshots",
        "_snapshots_offset", "_version", "cluster_size",
    )  # fmt: skip

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is no regular file; name a qcow2 image")
        self._size = status.st_size
        if self._size < HEADER.size or self._bytes(0, len(MAGIC), "header") != MAGIC:
            raise UsageError(f"{path} is no qcow2 image; name one, or take a stream of bytes as is")
        (
            _, version, _, _, bits, self._disk_size, encryption, _, _, _, _, self._snapshots,
            self._snapshots_offset,
        ) = HEADER.unpack(self._bytes(0, HEADER.size, "header"))  # fmt: skip
        features = 0
        if version == 3:
            raw = self._bytes(HEADER.size, FEATURES.size, "header")
            (features, *_) = FEATURES.unpack(raw)
        elif version != 2:
            raise UsageError(f"{path} is qcow version {version}; only 2 and 3 are read")
        if encryption:
            raise UsageError(f"{path} is encrypted; decrypt it with qemu-img convert first")
        if features & _EXTERNAL_DATA:
            raise UsageError(f"{path} keeps its data in another file, which is not followed")
        if features & ~_FEATURES_KNOWN:
            raise UsageError(f"{path} has features that are not known here ({features:#x})")
        if bits not in CLUSTER_BITS:
            raise self._damaged(f"its cluster size is 2**{bits}")
        self.cluster_size: Final[int] = 1 << bits
        self._version = version
        self._entry_size = 16 if features & _EXTENDED_L2 else 8
        if self._entry_size == 16 and self.cluster_size < _SUBCLUSTERS * _SUBCLUSTER_MIN:
            raise self._damaged("its clusters are too small to be divided")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Open ``path`` for reading, for the duration of a ``with`` block.

        Raises:
            UsageError, InfraError: as :func:`snapshots`.
        """
        try:
            # A named pipe would keep us waiting for somebody who writes.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot open {path}: {reason}; name a qcow2 image") from error
        try:
            yield cls(path, descriptor)
        finally:
            os.close(descriptor)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """All entries of the snapshot table.

        Raises:
            UsageError, InfraError: as the function of that name.
        """
        if self._snapshots > SNAPSHOTS_MAX:
            raise self._damaged(f"it claims {self._snapshots} snapshots")
        if self._snapshots:
            self._check_table(self._snapshots_offset, "snapshot table")
        found = []
        offset = self._snapshots_offset
        for _ in range(self._snapshots):
            snapshot, offset = self._entry(offset)
            if offset - self._snapshots_offset > SNAPSHOT_TABLE_MAX:
                raise self._damaged("its snapshot table is longer than QEMU takes")
            found.append(snapshot)
        return tuple(found)

    def vmstate(self, snapshot: Snapshot) -> bytes:
        """The VM state of a snapshot of this image.

        Raises:
            UsageError, InfraError: as the function of that name.
        """
        if not snapshot.vmstate_size:
            raise UsageError(
                f"snapshot {snapshot.name!r} of {self._path} holds a disk but no VM state; "
                "take one with savevm while a machine runs"
            )
        return b"".join(
            bytes(piece.size)
            if piece.offset is None
            else self._bytes(piece.offset, piece.size, "VM state")
            for piece in self.pieces(snapshot)
        )

    def pieces(self, snapshot: Snapshot) -> Iterator[Piece]:
        """Where the VM state of a snapshot lies, in order, none of it beyond the file's end.

        In the space that L1 and L2 tables describe it begins with the first L2 table after
        the guest disk's own (``qcow2_vm_state_offset`` in QEMU block/qcow2.c).

        Raises:
            UsageError, InfraError: as :func:`vmstate`.
        """
        left = snapshot.vmstate_size
        # QEMU stores every byte of a VM state: more than the file has is a lie, and would let a
        # few bytes ask for a gigabyte of zeros.
        if left > self._size:
            raise self._damaged(f"snapshot {snapshot.name!r} is said to hold {left} bytes")
        if left > VMSTATE_MAX:
            raise UsageError(
                f"snapshot {snapshot.name!r} of {self._path} holds {left >> 20} MiB of VM state, "
                f"more than {VMSTATE_MAX >> 20}; use a machine with less memory"
            )
        per_table = self.cluster_size // self._entry_size
        covered = per_table * self.cluster_size
        index = -(-snapshot.disk_size // covered)
        count = -(-left // covered)
        if snapshot.l1_entries > L1_MAX or index + count > snapshot.l1_entries:
            raise self._damaged(f"the L1 table of {snapshot.name!r} does not reach its VM state")
        self._check_table(snapshot.l1_offset, "L1 table")
        raw = self._bytes(snapshot.l1_offset + 8 * index, 8 * count, "L1 table")
        for (pointer,) in struct.iter_unpack(">Q", raw):
            here = min(left, covered)
            yield from self._table(pointer & OFFSET_MASK, here)
            left -= here

    def _table(self, offset: int, size: int) -> Iterator[Piece]:
        """The first ``size`` bytes of what an L2 table covers."""
        if not offset:
            yield Piece(None, size)
            return
        self._check_table(offset, "L2 table")
        count = -(-size // self.cluster_size)
        raw = self._bytes(offset, count * self._entry_size, "L2 table")
        form = ">QQ" if self._entry_size == 16 else ">Q"
        for descriptor, *bitmap in struct.iter_unpack(form, raw):
            here = min(size, self.cluster_size)
            yield from self._cluster(descriptor, bitmap[0] if bitmap else None, here)
            size -= here

    def _cluster(self, descriptor: int, bitmap: int | None, size: int) -> Iterator[Piece]:
        """The first ``size`` bytes of what an L2 entry stands for."""
        if descriptor & _COMPRESSED:
            raise UsageError(
                f"{self._path} has compressed VM state; convert it with qemu-img convert, "
                "or take the snapshot again"
            )
        offset = descriptor & OFFSET_MASK
        if offset % self.cluster_size:
            raise self._damaged(f"a cluster lies at {offset:#x}")
        zero = bitmap is None and self._version >= 3 and descriptor & _ZERO
        if zero or not offset:
            yield Piece(None, size)
            return
        if offset + size > self._size:
            raise self._damaged(f"a cluster lies at {offset:#x}")
        if bitmap is None:
            yield Piece(offset, size)
            return
        part = self.cluster_size // _SUBCLUSTERS
        for number in range(-(-size // part)):
            start = number * part
            stored = bitmap >> number & 1
            yield Piece(offset + start if stored else None, min(part, size - start))

    def _entry(self, offset: int) -> tuple[Snapshot, int]:
        """The entry at ``offset`` and where the next one begins."""
        (
            l1_offset, l1_entries, id_size, name_size, date_s, date_ns, clock_ns, vmstate_size,
            extra_size,
        ) = ENTRY.unpack(self._bytes(offset, ENTRY.size, "snapshot table"))  # fmt: skip
        if extra_size > EXTRA_MAX:
            raise self._damaged(f"a snapshot has {extra_size} bytes of extra data")
        body = self._bytes(offset + ENTRY.size, extra_size + id_size + name_size, "snapshot table")
        disk_size = self._disk_size
        if extra_size >= 8:
            vmstate_size = int.from_bytes(body[:8])
        if extra_size >= EXTRA.size:
            _, disk_size = EXTRA.unpack_from(body)
        text = body[extra_size:]
        length = ENTRY.size + len(body)
        return Snapshot(
            id=_c_string(text[:id_size], ID_MAX),
            name=_c_string(text[id_size:], NAME_MAX),
            vmstate_size=vmstate_size,
            disk_size=disk_size,
            date_s=date_s,
            date_ns=date_ns,
            clock_ns=clock_ns,
            l1_offset=l1_offset,
            l1_entries=l1_entries,
        ), offset + length + -length % ENTRY_ALIGNMENT

    def _check_table(self, offset: int, what: str) -> None:
        # QEMU refuses the same (qcow2_validate_table in block/qcow2.c).
        if not offset or offset % self.cluster_size:
            raise self._damaged(f"its {what} lies at {offset:#x}")

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        """``size`` bytes at ``offset``, all of them or none."""
        if offset + size > self._size:
            raise self._damaged(f"its {what} would end at byte {offset + size}")
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise InfraError(
                f"reading {self._path} failed: {error.strerror}; check the file system"
            ) from error
        if len(data) != size:
            raise self._damaged("it became shorter while it was read")
        return data

    def _damaged(self, why: str) -> UsageError:
        return UsageError(
            f"{self._path} ({self._size} bytes) is cut off or damaged: {why}; "
            "see what qemu-img check says, or take the snapshot again"
        )
