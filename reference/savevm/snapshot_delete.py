"""delvm: a snapshot off all disks.

Source: ``hmp_delvm`` of QEMU ``migration/savevm.c``.
"""

from errno import EIO, ENOENT, ENOTSUP

from savevm.block import BlockDevice
from savevm.errors import SnapshotError
from savevm.machine import Machine
from savevm.snapshot_disks import (
    counterpart,
    deletion_failed,
    find_vmstate_bs,
    list_snapshots,
    pick,
    snapshot_disks,
)
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_undo import NotPutBackError, Undo, all_or_nothing


def delvm(machine: Machine, name: str) -> list[str]:
    """Delete a snapshot on every disk (``hmp_delvm``).

    The seed deletes what it can.  Under a strict profile the snapshot is gone from
    every disk afterwards, or all have it still; one that some disks lack is deleted
    where it is.

    Args:
        name: id, or else name, of the snapshot.

    Returns:
        What the monitor prints: a text for each disk that could not, among
        them those that have no such snapshot (under a strict profile, only if
        none has it).  Empty when all is well.

    Raises:
        SnapshotError: no disk has snapshots; under a strict profile, also: a
            disk's cannot be listed.
    """
    if find_vmstate_bs(machine) is None:
        raise SnapshotError("No block device supports snapshots", errno=ENOTSUP)
    if machine.profile.failed_delvm_changes_disks:
        return _where_possible(machine, name)
    found = _counterparts(machine, name)
    if not found:
        missing = OSError(ENOENT, "Can't find the snapshot")
        return [deletion_failed(device, missing) for device in snapshot_disks(machine)]
    undo = Undo()
    try:
        with all_or_nothing(undo):
            for device, info in found:
                undo.remember(device)
                delete(device, info)
    except NotPutBackError as failure:
        return failure.reason.splitlines()
    except SnapshotError as failure:
        return [failure.reason]
    return []


def delete(device: BlockDevice, info: SnapshotInfo) -> None:
    """Delete the snapshot of that id and name.

    Raises:
        SnapshotError: the disk refuses.
    """
    try:
        device.snapshot_delete(info.id_str, info.name)
    except OSError as error:
        raise SnapshotError(deletion_failed(device, error), errno=error.errno or EIO) from error


def _where_possible(machine: Machine, name: str) -> list[str]:
    texts: list[str] = []
    for device in snapshot_disks(machine):
        try:
            device.snapshot_delete_by_id_or_name(name)
        except OSError as error:
            texts.append(deletion_failed(device, error))
    return texts


def _counterparts(machine: Machine, name: str) -> list[tuple[BlockDevice, SnapshotInfo]]:
    """What is to be deleted: the snapshot that ``name`` means on the first disk
    that has one, and its counterparts on the others."""
    lists = [(device, list_snapshots(device)) for device in snapshot_disks(machine)]
    meant = next((info for _, there in lists if (info := pick(there, name)) is not None), None)
    if meant is None:
        return []
    found = [(device, counterpart(there, meant)) for device, there in lists]
    return [(device, info) for device, info in found if info is not None]
