"""A qcow2 image whose internal snapshots are inputs, overwritten in place while QEMU has it open.

Theory of operation.  ``loadvm NAME`` makes the snapshot's L1 table the active one and then
reads the VM state through it.  QEMU caches tables but no data clusters, so if all tables are
written once and each slot's clusters follow one another in the file, a new input is one
``pwrite`` at a known offset and the next ``loadvm`` sees it.  Rules:

1. The tables are QEMU's as soon as it has opened the image; we never touch them again, except
   in :meth:`Image.restore` when no QEMU has it open.
2. A slot's clusters belong to its snapshot, with a reference of their own: QEMU copies them
   before it would write to them (``savevm``), so they stay where they are.  Never ``delvm`` a
   slot: QEMU would put something else in its place.
3. Behind its stream a slot reads as zeros.

The file: header, refcount table, refcount block, active L1, snapshot table, an L1 and an L2
table per slot, then the slots.  Layout from QEMU ``docs/interop/qcow2.txt``.
"""

import contextlib
import errno
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.qcow2_reader import (
    ENTRY,
    ENTRY_ALIGNMENT,
    EXTRA,
    FEATURES,
    HEADER,
    MAGIC,
    ImageFile,
    Snapshot,
)

CLUSTER_BITS: Final = 16
"""QEMU's default; one L2 table then covers 512 MiB, so that a slot needs only one."""
CLUSTER_SIZE: Final = 1 << CLUSTER_BITS
CAPACITY_MAX: Final = 8 << 20
"""Bytes of a slot.  QEMU counts references for every cluster of it at each load, so room for
more than a device state and some memory pages is not free."""
SLOTS_MAX: Final = 64
"""Slots of an image; with :data:`CAPACITY_MAX` one refcount block (2 GiB) covers them all."""
DISK_SIZE_MAX: Final = 1 << 40
"""Bytes of the guest's disk; its part of the L1 table then fits in one cluster."""
SECTOR: Final = 512

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
"""Needs no quotes in an HMP command, and is no number that could be taken for an id."""
_COVERED: Final = CLUSTER_SIZE // 8 * CLUSTER_SIZE
"""Bytes that one L2 table covers."""
_REFCOUNT_ORDER: Final = 4
"""References are counted in 16 bits, the only width that version 2 has and QEMU's default."""
_REFCOUNT_TABLE, _REFCOUNT_BLOCK, _ACTIVE_L1, _SNAPSHOT_TABLE, _SLOT_TABLES = (
    number * CLUSTER_SIZE for number in range(1, 6)
)


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one input.

    Attributes:
        name: of the snapshot, as ``loadvm`` takes it.
        offset: in the file, of its first byte.
        capacity: bytes that QEMU reads from there on; whole clusters.
    """

    name: str
    offset: int
    capacity: int


class Image:
    """An image on the disk, best in memory (``/dev/shm``), and its slots.

    Made by :meth:`create` or :meth:`open`; a context manager that closes the file and leaves it
    there.  QEMU may have it open at the same time, see :func:`blockdev`.

    Attributes:
        path: of the file.
        slots: by name.
    """

    __slots__ = ("_descriptor", "_disk_size", "_used", "path", "slots")

    def __init__(
        self, path: Path, descriptor: int, slots: Sequence[Slot], disk_size: int, *, used: bool
    ) -> None:
        self.path = path
        self.slots: Mapping[str, Slot] = MappingProxyType({slot.name: slot for slot in slots})
        self._descriptor = descriptor
        # ``None`` for an image with tables that are not ours to write.
        self._disk_size = None if used else disk_size
        self._used = {slot.name: slot.capacity if used else 0 for slot in slots}

    @classmethod
    def create(
        cls, path: Path, slots: Sequence[tuple[str, int]], *, disk_size: int = CLUSTER_SIZE
    ) -> Self:
        """Write a new image, all slots of it zeros.

        Snapshot ids are ``1``, ``2``, ... and dates 0: the same arguments make the same file.

        Args:
            path: nothing is there yet.
            slots: name and capacity in bytes of each, 1 to :data:`SLOTS_MAX` of them; names are
                up to 64 letters, digits, ``.``, ``_`` and ``-`` and begin with a letter; capacities
                are 1 to :data:`CAPACITY_MAX` and rounded up to whole clusters.
            disk_size: bytes of the guest's empty disk, whole sectors.

        Raises:
            UsageError: the arguments are none of that, or the file cannot be made there.
            InfraError: no room, or the file system failed; nothing is left behind.
        """
        layout = _layout(slots)
        if disk_size % SECTOR or not 0 < disk_size <= DISK_SIZE_MAX:
            raise UsageError(
                f"a disk of {disk_size} bytes is not possible; use a multiple of {SECTOR} "
                f"up to {DISK_SIZE_MAX >> 30} GiB"
            )
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise _failed(path, error) from error
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot make {path}: {reason}; choose another place") from error
        image = cls(path, descriptor, layout, disk_size, used=False)
        try:
            image._write_tables(disk_size, table_size=0)
        except BaseException:
            image.close()
            path.unlink(missing_ok=True)
            raise
        return image

    @classmethod
    def open(cls, path: Path) -> Self:
        """An image that exists, for example after QEMU has used it.

        Its slots are the snapshots whose VM state is stored in one piece of at most
        :data:`CAPACITY_MAX`, among the first :data:`SLOTS_MAX`; others, which ``savevm`` may
        have made, are left out.  What the slots hold is not known: the first :meth:`write` of
        each writes all of its capacity.

        Raises:
            UsageError, InfraError: as :func:`loadfuzz.qemu.qcow2_reader.snapshots`, or the
                file may not be written.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot open {path} for writing: {reason}") from error
        try:
            file = ImageFile(path, descriptor)
            known = file.snapshots()[:SLOTS_MAX]
            slots = [slot for slot in (_found(file, each) for each in known) if slot is not None]
            return cls(path, descriptor, slots, 0, used=True)
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; it stays where it is.  Closing again does nothing."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def write(self, name: str, stream: bytes) -> None:
        """Put ``stream`` in a slot, zeros behind it.  Costs its length and its predecessor's.

        Not while a ``loadvm`` is under way: QEMU would read a bit of both.

        Args:
            name: of a slot.
            stream: at most as long as the slot's capacity.

        Raises:
            UsageError: no such slot, or the stream does not fit.
            InfraError: no room, or the file system failed; the slot then holds anything, and
                a further :meth:`write` puts it right.
        """
        slot = self._slot(name)
        if len(stream) > slot.capacity:
            raise UsageError(
                f"a stream of {len(stream)} bytes does not fit in slot {name!r} of "
                f"{slot.capacity}; make the slots larger, or use less guest memory"
            )
        used = self._used[name]
        stored, trouble = _store(self._descriptor, slot.offset, stream)
        if trouble is None and len(stream) < used:
            zeros = bytes(used - len(stream))
            _, trouble = _store(self._descriptor, slot.offset + len(stream), zeros)
        if trouble is not None:
            # No more than was stored: on a full disk only that has room for zeros.
            self._used[name] = max(used, stored)
            raise _failed(self.path, trouble) from trouble
        self._used[name] = len(stream)

    @property
    def descriptor(self) -> int:
        """Of ours, open for reading and writing."""
        return self._descriptor

    def read(self, name: str) -> bytes:
        """All of a slot's capacity, as QEMU would read it.

        Raises:
            UsageError: no such slot.
            InfraError: the file system failed, or somebody has cut the file off.
        """
        slot = self._slot(name)
        try:
            data = os.pread(self._descriptor, slot.capacity, slot.offset)
        except OSError as error:
            raise _failed(self.path, error) from error
        if len(data) != slot.capacity:
            raise InfraError(f"{self.path} was cut off by somebody; make a new image")
        return data

    def restore(self) -> None:
        """Make all tables what :meth:`create` made of them; the slots keep what they hold.

        For an image that a killed QEMU has left halfway between two states.  Snapshots that it
        has added are gone.  No QEMU may have the image open.

        Raises:
            UsageError: the image was not made by this object.
            InfraError: no room, or the file system failed.
        """
        if self._disk_size is None:
            raise UsageError(f"{self.path} was made by somebody else; make a new image")
        # QEMU may have written up to the end of a table's cluster.
        self._write_tables(self._disk_size, table_size=CLUSTER_SIZE)

    def _write_tables(self, disk_size: int, *, table_size: int) -> None:
        """Write all tables, zeros up to ``table_size`` behind each, and set the file's end.

        A new file has zeros there already and stays sparse.
        """
        slots = list(self.slots.values())
        end = max(slot.offset + slot.capacity for slot in slots)
        for offset, table in _tables(slots, end, disk_size).items():
            _, trouble = _store(self._descriptor, offset, table.ljust(table_size, b"\0"))
            if trouble is not None:
                raise _failed(self.path, trouble) from trouble
        try:
            os.ftruncate(self._descriptor, end)
        except OSError as error:
            raise _failed(self.path, error) from error

    def _slot(self, name: str) -> Slot:
        try:
            return self.slots[name]
        except KeyError:
            raise UsageError(
                f"{self.path} has no slot {name!r}; it has {', '.join(self.slots) or 'none'}"
            ) from None


def blockdev(name: str, node: str = "disk0") -> tuple[str, str]:
    """QEMU's arguments that open an image so that it can be overwritten under it.

    Args:
        name: of the image's file.
        node: name of the block node.
    """
    # Flushing would wait for a disk that has nothing worth keeping.
    return "-blockdev", (
        f"driver=qcow2,node-name={node},cache.no-flush=on,file.driver=file,file.locking=off,"
        f"file.cache.no-flush=on,file.filename={name.replace(',', ',,')}"
    )


def _store(descriptor: int, offset: int, data: bytes) -> tuple[int, OSError | None]:
    """Write ``data`` at ``offset``; how much of it is there, and what went wrong."""
    view = memoryview(data)
    done = 0
    while done < len(data):  # each turn writes some
        try:
            written = os.pwrite(descriptor, view[done:], offset + done)
        except OSError as error:
            return done, error
        if not written:
            return done, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += written
    return done, None


def _failed(path: Path, error: OSError) -> InfraError:
    if error.errno in _DISK_FULL:
        advice = f"make room in {path.parent}, or use fewer workers or smaller slots"
    else:
        advice = "check the file system"
    return InfraError(f"using {path} failed: {error.strerror or error}; {advice}")


def _layout(wanted: Sequence[tuple[str, int]]) -> list[Slot]:
    """Where each slot lies, if they are possible."""
    if not 1 <= len(wanted) <= SLOTS_MAX:
        raise UsageError(f"an image of {len(wanted)} slots is not possible; use 1 to {SLOTS_MAX}")
    slots: list[Slot] = []
    names: set[str] = set()
    offset = _SLOT_TABLES + 2 * len(wanted) * CLUSTER_SIZE
    for name, capacity in wanted:
        if not _NAME.fullmatch(name) or name in names:
            raise UsageError(
                f"{name!r} cannot name a slot; use letters, digits, '.', '_' and '-', a letter "
                "first, at most 64, and no name twice"
            )
        if not 1 <= capacity <= CAPACITY_MAX:
            raise UsageError(
                f"slot {name!r} of {capacity} bytes is not possible; use 1 to {CAPACITY_MAX}"
            )
        slot = Slot(name, offset, capacity + -capacity % CLUSTER_SIZE)
        slots.append(slot)
        names.add(name)
        offset += slot.capacity
    return slots


def _found(file: ImageFile, snapshot: Snapshot) -> Slot | None:
    """The slot that a snapshot of an existing image is; ``None`` if it cannot be one."""
    if snapshot.vmstate_size > CAPACITY_MAX:
        return None
    start = end = None
    for piece in file.pieces(snapshot):
        if piece.offset is None or (end is not None and piece.offset != end):
            return None
        start = piece.offset if start is None else start
        end = piece.offset + piece.size
    if start is None:
        return None
    return Slot(snapshot.name, start, snapshot.vmstate_size)


def _tables(slots: Sequence[Slot], end: int, disk_size: int) -> dict[int, bytes]:
    """All that is not a slot: content by offset, each within one cluster."""
    vmstate_index = -(-disk_size // _COVERED)
    l1_entries = vmstate_index + 1
    features = FEATURES.pack(0, 0, 0, _REFCOUNT_ORDER, HEADER.size + FEATURES.size)
    # The active L1 is empty, yet as long as the snapshots': QEMU need not move it at a load.
    header = HEADER.pack(
        MAGIC, 3, 0, 0, CLUSTER_BITS, disk_size, 0, l1_entries, _ACTIVE_L1, _REFCOUNT_TABLE, 1,
        len(slots), _SNAPSHOT_TABLE,
    )  # fmt: skip
    clusters = end // CLUSTER_SIZE
    tables = {
        0: header + features,
        _REFCOUNT_TABLE: struct.pack(">Q", _REFCOUNT_BLOCK),
        _REFCOUNT_BLOCK: struct.pack(">H", 1) * clusters,
        _ACTIVE_L1: b"",
    }
    entries = bytearray()
    for number, slot in enumerate(slots):
        l1 = _SLOT_TABLES + 2 * number * CLUSTER_SIZE
        l2 = l1 + CLUSTER_SIZE
        tables[l1] = bytes(8 * vmstate_index) + struct.pack(">Q", l2)
        # Without QCOW_OFLAG_COPIED: nobody may write here without copying.
        offsets = range(slot.offset, slot.offset + slot.capacity, CLUSTER_SIZE)
        tables[l2] = b"".join(struct.pack(">Q", offset) for offset in offsets)
        snapshot_id = str(number + 1).encode()
        name = slot.name.encode()
        entries += ENTRY.pack(
            l1, l1_entries, len(snapshot_id), len(name), 0, 0, 0, slot.capacity, EXTRA.size
        )
        entries += EXTRA.pack(slot.capacity, disk_size) + snapshot_id + name
        entries += bytes(-len(entries) % ENTRY_ALIGNMENT)
    tables[_SNAPSHOT_TABLE] = bytes(entries)
    return tables
