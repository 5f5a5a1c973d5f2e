"""What savevm, loadvm and delvm ask of all disks together.

Two manners of looking a snapshot up.  The seed asks each disk anew for an id or
a name, by one rule for finding and by another for going there and deleting, and
takes a list that cannot be read for an empty one.  The strict manner reads every
list first, knows a snapshot by id and name from then on, and takes those of
several disks for one only if they were made at the same moment.

Source: ``find_vmstate_bs``, ``del_existing_snapshots`` and the checks at the
head of ``hmp_savevm`` and ``load_vmstate`` in QEMU ``migration/savevm.c``.
"""

from collections.abc import Iterable, Iterator, Sequence
from errno import EIO, ENOENT, ENOTSUP

from savevm.block import BlockDevice
from savevm.errors import SnapshotError
from savevm.machine import Machine
from savevm.snapshot_info import SnapshotInfo
from savevm.stopped import Unrest, reason_of


def find_vmstate_bs(machine: Machine) -> BlockDevice | None:
    """The disk that takes the VM state: the first that can be snapshotted."""
    return next((device for device in machine.block_devices if device.can_snapshot()), None)


def writable_disks(machine: Machine) -> Iterator[BlockDevice]:
    """Every disk the guest can write to.

    Raises:
        SnapshotError: one of them has no snapshots (``ENOTSUP``), when its turn
            comes.
    """
    for device in machine.block_devices:
        if not device.inserted or device.read_only:
            continue
        if not device.can_snapshot():
            raise SnapshotError(
                f"Device '{device.name}' is writable but does not support snapshots.",
                errno=ENOTSUP,
            )
        yield device


def snapshot_disks(machine: Machine) -> Iterator[BlockDevice]:
    """Every disk that takes part in snapshots."""
    return (device for device in machine.block_devices if device.can_snapshot())


def refuse_unrest(unrest: Iterable[Unrest]) -> None:
    """Go on only if every disk has come to rest.

    Raises:
        SnapshotError: some have not: writes of the guest would be missing from
            a snapshot, or land on a disk that has gone back.
    """
    failures = tuple(unrest)
    if failures:
        raise SnapshotError(
            "\n".join(map(str, failures)), errno=failures[0].error.errno or EIO
        ) from failures[0].error


# -- the strict manner -----------------------------------------------------------------


def list_snapshots(device: BlockDevice) -> list[SnapshotInfo]:
    """A disk's snapshots, oldest first.

    Raises:
        SnapshotError: they cannot be listed.
    """
    try:
        return device.snapshot_list()
    except OSError as error:
        raise SnapshotError(
            f"Error while listing snapshots on device '{device.name}': {reason_of(error)}",
            errno=error.errno or EIO,
        ) from error


def pick(snapshots: Sequence[SnapshotInfo], id_or_name: str) -> SnapshotInfo | None:
    """The snapshot that ``id_or_name`` means: every id is tried before any name."""
    for info in snapshots:
        if info.id_str == id_or_name:
            return info
    return next((info for info in snapshots if info.name == id_or_name), None)


def counterpart(snapshots: Sequence[SnapshotInfo], info: SnapshotInfo) -> SnapshotInfo | None:
    """Another disk's snapshot of the same id and name, whenever it was made; else
    the first of that name, which a command that failed half way has left there."""
    for other in snapshots:
        if (other.id_str, other.name) == (info.id_str, info.name):
            return other
    return next((other for other in snapshots if other.name == info.name), None)


# -- the seed's ----------------------------------------------------------------------------


def find_snapshot(device: BlockDevice, id_or_name: str) -> SnapshotInfo | None:
    """A disk's snapshot, or ``None``: any failure to find it counts as that."""
    try:
        return device.snapshot_find(id_or_name)
    except OSError:
        return None


def del_existing_snapshots(machine: Machine, name: str) -> None:
    """Delete the snapshot called ``name`` on every disk that has it.

    Raises:
        SnapshotError: a disk refuses; the disks before it have lost theirs.
    """
    for device in snapshot_disks(machine):
        if find_snapshot(device, name) is None:
            continue
        try:
            device.snapshot_delete_by_id_or_name(name)
        except OSError as error:
            raise SnapshotError(deletion_failed(device, error), errno=error.errno or EIO) from error


# -- texts -----------------------------------------------------------------------------------


def deletion_failed(device: BlockDevice, error: OSError) -> str:
    """QEMU's text for a snapshot that cannot be deleted."""
    return f"Error while deleting snapshot on device '{device.name}': {reason_of(error)}"


def missing_snapshot(device: BlockDevice, name: str) -> SnapshotError:
    """The refusal to load what a disk has not got."""
    return SnapshotError(
        f"Device '{device.name}' does not have the requested snapshot '{name}'", errno=ENOENT
    )
