"""savevm: the whole machine into a snapshot of all its disks.

Order of work.  The seed deletes the snapshot of the same name, writes the VM
state and makes the new snapshots: what fails on the way has lost the old one.
The strict manner deletes when nothing is left to do but to make the new ones, so
that a disk that is full loses nothing; all of them before it makes the first, so
that at no moment one disk has the old snapshot and another one the new.

Source: ``hmp_savevm`` of QEMU ``migration/savevm.c``.
"""

from dataclasses import replace
from datetime import UTC, datetime
from errno import EIO, ENOTSUP
from os import strerror
from typing import Final

from savevm.block import BlockDevice, next_id
from savevm.errors import SaveError, SnapshotError
from savevm.machine import Machine, RunState
from savevm.qemufile import QEMUFileWriter
from savevm.qemufile.blockfile import BlockSink
from savevm.save import qemu_savevm_state
from savevm.snapshot_delete import delete
from savevm.snapshot_disks import (
    counterpart,
    del_existing_snapshots,
    find_snapshot,
    find_vmstate_bs,
    list_snapshots,
    pick,
    refuse_unrest,
    snapshot_disks,
    writable_disks,
)
from savevm.snapshot_info import SnapshotInfo, cut_name
from savevm.snapshot_undo import Undo, all_or_nothing
from savevm.stopped import stopped
from savevm.trace import Trace

_NAME_FORMAT: Final = "vm-%Y%m%d%H%M%S"


def savevm(
    machine: Machine,
    name: str | None = None,
    *,
    now: datetime,
    trace: Trace | None = None,
) -> SnapshotInfo:
    """Save the machine into a snapshot (``hmp_savevm``).

    The VM state goes to the first disk that can be snapshotted, and a snapshot
    of it is made on every such disk.  One of the same name (or with the name as
    its id) is replaced and keeps its id.  The guest is stopped meanwhile, and
    runs again afterwards if it ran, whether the save succeeded or not.

    Args:
        machine: what is saved.
        name: name of the snapshot; ``None`` for one made of the date.
        now: the date; one without a zone is taken as UTC.
        trace: hears the save.

    Returns:
        The snapshot on the disk with the VM state.

    Raises:
        SnapshotError: with QEMU's text; several disks' texts on a line each.
            Under a strict profile every disk is then as it was, unless it is a
            :class:`~savevm.snapshot_undo.NotPutBackError`.
    """
    for _ in writable_disks(machine):
        pass
    device = find_vmstate_bs(machine)
    if device is None:
        raise SnapshotError("No block device can accept snapshots", errno=ENOTSUP)
    with stopped(machine, RunState.SAVE_VM) as unrest:
        if not machine.profile.close_errors_ignored:
            refuse_unrest(unrest)
        dated = _dated(machine, name, now)
        if machine.profile.failed_savevm_changes_disks:
            return _as_the_seed(machine, device, name, dated, trace)
        return _all_or_nothing(machine, device, name, dated, trace)


def _dated(machine: Machine, name: str | None, now: datetime) -> SnapshotInfo:
    """Name and times of the new snapshot."""
    if now.tzinfo is None:
        now = now.replace(tzinfo=UTC)
    return SnapshotInfo(
        name=now.strftime(_NAME_FORMAT) if name is None else cut_name(name),
        date_sec=int(now.timestamp()),
        date_nsec=now.microsecond * 1000,
        vm_clock_nsec=machine.clock.now_ns,
    )


def _save_state(machine: Machine, device: BlockDevice, trace: Trace | None) -> int:
    """Write the VM state; returns its size in bytes."""
    f = QEMUFileWriter(BlockSink(device), trace=trace)
    try:
        qemu_savevm_state(f, machine)
    except SaveError as error:
        f.close()
        raise SnapshotError(error.reason, errno=error.errno) from error
    size = f.tell()
    failure = f.close()
    if failure and not machine.profile.close_errors_ignored:
        raise SnapshotError(f"Error while writing VM state: {strerror(-failure)}", errno=-failure)
    return size


# -- the seed's manner -----------------------------------------------------------------


def _as_the_seed(
    machine: Machine,
    device: BlockDevice,
    name: str | None,
    wanted: SnapshotInfo,
    trace: Trace | None,
) -> SnapshotInfo:
    if name is not None:
        old = find_snapshot(device, name)
        if old is not None:
            wanted = replace(wanted, id_str=old.id_str, name=old.name)
        del_existing_snapshots(machine, name)
    size = _save_state(machine, device, trace)
    refusals: list[str] = []
    code = 0
    created = wanted
    for disk in snapshot_disks(machine):
        try:
            made = _create(disk, wanted, size if disk is device else 0)
        except SnapshotError as error:
            refusals.append(error.reason)
            code = code or error.errno
            continue
        # The id that the first disk chooses is asked of the others too.
        wanted = replace(wanted, id_str=made.id_str)
        if disk is device:
            created = made
    if refusals:
        raise SnapshotError("\n".join(refusals), errno=code)
    return created


def _create(disk: BlockDevice, wanted: SnapshotInfo, vm_state_size: int) -> SnapshotInfo:
    # Only the image with the state says how large it is.
    try:
        return disk.snapshot_create(replace(wanted, vm_state_size=vm_state_size))
    except OSError as error:
        raise SnapshotError(
            f"Error while creating snapshot on '{disk.name}'", errno=error.errno or EIO
        ) from error


# -- the strict manner -----------------------------------------------------------------


def _all_or_nothing(
    machine: Machine,
    device: BlockDevice,
    name: str | None,
    wanted: SnapshotInfo,
    trace: Trace | None,
) -> SnapshotInfo:
    lists = {disk: list_snapshots(disk) for disk in snapshot_disks(machine)}
    old = pick(lists[device], name) if name is not None else None
    if old is not None:
        wanted = replace(wanted, id_str=old.id_str, name=old.name)
    going: list[tuple[BlockDevice, SnapshotInfo]] = []
    if name is not None:
        for disk, there in lists.items():
            replaced = old if disk is device else counterpart(there, wanted)
            if replaced is not None:
                going.append((disk, replaced))
                there.remove(replaced)
    wanted = replace(wanted, id_str=_free_id(list(lists.values()), wanted.id_str))
    undo = Undo()
    created = wanted
    with all_or_nothing(undo):
        undo.remember(device)
        size = _save_state(machine, device, trace)
        for disk, replaced in going:
            undo.remember(disk)
            delete(disk, replaced)
        for disk in lists:
            undo.remember(disk)
            made = _create(disk, wanted, size if disk is device else 0)
            if disk is device:
                created = made
    return created


def _free_id(lists: list[list[SnapshotInfo]], wanted: str) -> str:
    """An id that no disk has: the one wanted, or that which the first disk would
    choose, or else one after the greatest of all.

    Disks can disagree about ids: a process that was killed left a snapshot on one
    of them.
    """
    taken = {info.id_str for there in lists for info in there}
    for choice in (wanted, next_id(lists[0])):
        if choice and choice not in taken:
            return choice
    return next_id(info for there in lists for info in there)
