"""What savevm, loadvm and delvm ask of all disks together.

Source: ``find_vmstate_bs``, ``del_existing_snapshots`` and the checks at the
head of ``hmp_savevm`` and ``load_vmstate`` in QEMU ``migration/savevm.c``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ENOENT, ENOTSUP

from savevm.block import BlockDevice
from savevm.errors import SnapshotError
from savevm.machine import Machine
from savevm.snapshot_info import SnapshotInfo


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


def deletion_failed(device: BlockDevice, error: OSError) -> str:
    """QEMU's text for a snapshot that cannot be deleted."""
    return f"Error while deleting snapshot on device '{device.name}': {error.strerror or error}"


def missing_snapshot(device: BlockDevice, name: str) -> SnapshotError:
    """The refusal to load what a disk has not got."""
    return SnapshotError(
        f"Device '{device.name}' does not have the requested snapshot '{name}'", errno=ENOENT
    )


@contextmanager
def unchanged_disks_on_failure(machine: Machine) -> Iterator[None]:
    """Put every disk back as it was if the block raises."""
    before = [(device, device.checkpoint()) for device in machine.block_devices]
    try:
        yield
    except BaseException:
        for device, checkpoint in before:
            device.restore(checkpoint)
        raise
