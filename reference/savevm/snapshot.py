"""Snapshots of a whole machine: savevm, loadvm, delvm, info snapshots.

Theory of operation.  A machine's snapshot is one internal snapshot of the same
name on each of its disks; the first disk that can be snapshotted also holds
the VM state.  Nothing ties them together but name and id.  Commands refuse
with :class:`~savevm.errors.SnapshotError`, whose text is what QEMU's monitor
prints.  Source: the last functions of QEMU ``migration/savevm.c``.
"""

from errno import EIO, ENOTSUP

from savevm.errors import SnapshotError
from savevm.machine import Machine
from savevm.snapshot_disks import (
    del_existing_snapshots,
    deletion_failed,
    find_snapshot,
    find_vmstate_bs,
    snapshot_disks,
)
from savevm.snapshot_info import SnapshotInfo, SnapshotListing
from savevm.snapshot_load import hmp_loadvm, loadvm
from savevm.snapshot_save import savevm

__all__ = [
    "del_existing_snapshots",
    "delvm",
    "find_vmstate_bs",
    "hmp_loadvm",
    "info_snapshots",
    "loadvm",
    "savevm",
]


def delvm(machine: Machine, name: str) -> list[str]:
    """Delete a snapshot on every disk (``hmp_delvm``).

    Args:
        name: id, or else name, of the snapshot.

    Returns:
        What the monitor prints: a text for each disk that could not, among
        them those that have no such snapshot.  Empty when all is well.

    Raises:
        SnapshotError: no disk has snapshots.
    """
    if find_vmstate_bs(machine) is None:
        raise SnapshotError("No block device supports snapshots", errno=ENOTSUP)
    texts: list[str] = []
    for device in snapshot_disks(machine):
        try:
            device.snapshot_delete_by_id_or_name(name)
        except OSError as error:
            texts.append(deletion_failed(device, error))
    return texts


def info_snapshots(machine: Machine) -> SnapshotListing:
    """The snapshots that could be loaded (``hmp_info_snapshots``).

    Those of the disk with the VM state whose id every other disk knows, as an
    id or as a name.

    Raises:
        SnapshotError: no disk has snapshots, or they cannot be listed.
    """
    device = find_vmstate_bs(machine)
    if device is None:
        raise SnapshotError("No available block device supports snapshots", errno=ENOTSUP)
    try:
        present = device.snapshot_list()
    except OSError as error:
        code = error.errno or EIO
        raise SnapshotError(f"bdrv_snapshot_list: error {-code}", errno=code) from error
    others = [disk for disk in snapshot_disks(machine) if disk is not device]
    complete: list[SnapshotInfo] = []
    incomplete: list[SnapshotInfo] = []
    for info in present:
        everywhere = all(find_snapshot(disk, info.id_str) is not None for disk in others)
        (complete if everywhere else incomplete).append(info)
    return SnapshotListing(tuple(complete), tuple(incomplete))
