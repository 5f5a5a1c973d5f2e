"""Snapshots of a whole machine: savevm, loadvm, delvm, info snapshots.

Theory of operation.  A machine's snapshot is one internal snapshot of the same
name on each of its disks; the first disk that can be snapshotted also holds
the VM state.  Nothing ties them together but name, id and date.  Commands refuse
with :class:`~savevm.errors.SnapshotError`, whose text is what QEMU's monitor
prints.  Under a strict profile a command that fails leaves every disk as it was
(:mod:`savevm.snapshot_undo`); what even so is on some disks only, because the
process was killed or because a disk could not be put back, ``info snapshots``
shows and ``loadvm`` refuses.  Source: the last functions of QEMU
``migration/savevm.c``.
"""

from errno import EIO, ENOTSUP

from savevm.errors import SnapshotError
from savevm.machine import Machine
from savevm.snapshot_delete import delvm
from savevm.snapshot_disks import (
    del_existing_snapshots,
    find_snapshot,
    find_vmstate_bs,
    list_snapshots,
    snapshot_disks,
)
from savevm.snapshot_info import PartialSnapshots, SnapshotInfo, SnapshotListing
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


def info_snapshots(machine: Machine) -> SnapshotListing:
    """The snapshots that could be loaded (``hmp_info_snapshots``).

    Those of the disk with the VM state that every other disk has: for the seed,
    whose id every other disk knows as an id or as a name; under a strict profile,
    that were made by the same savevm.  That one also tells what else is on the
    disks.

    Raises:
        SnapshotError: no disk has snapshots, or they cannot be listed; of disks
            without VM state, only under a strict profile.
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
    if machine.profile.partial_snapshots_hidden:
        for info in present:
            everywhere = all(find_snapshot(disk, info.id_str) is not None for disk in others)
            (complete if everywhere else incomplete).append(info)
        return SnapshotListing(tuple(complete), tuple(incomplete))
    lists = {disk.name: list_snapshots(disk) for disk in others}
    for info in present:
        whole = all(any(other.made_with(info) for other in there) for there in lists.values())
        (complete if whole else incomplete).append(info)
    partial: list[PartialSnapshots] = []
    for name, there in {device.name: present, **lists}.items():
        rest = [info for info in there if not any(info.made_with(whole) for whole in complete)]
        if rest:
            partial.append(PartialSnapshots(name, tuple(rest)))
    return SnapshotListing(tuple(complete), tuple(incomplete), tuple(partial))
