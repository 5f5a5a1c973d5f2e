"""savevm: the whole machine into a snapshot of all its disks.

Source: ``hmp_savevm`` of QEMU ``migration/savevm.c``.
"""

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from errno import EIO, ENOTSUP
from os import strerror
from typing import Final

from savevm.block import BlockDevice
from savevm.errors import SaveError, SnapshotError
from savevm.machine import Machine, RunState
from savevm.qemufile import QEMUFileWriter
from savevm.qemufile.blockfile import BlockSink
from savevm.save import qemu_savevm_state
from savevm.snapshot_disks import (
    del_existing_snapshots,
    find_snapshot,
    find_vmstate_bs,
    snapshot_disks,
    unchanged_disks_on_failure,
    writable_disks,
)
from savevm.snapshot_info import SnapshotInfo, cut_name
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
    """
    for _ in writable_disks(machine):
        pass
    device = find_vmstate_bs(machine)
    if device is None:
        raise SnapshotError("No block device can accept snapshots", errno=ENOTSUP)
    with stopped(machine, RunState.SAVE_VM):
        keep = machine.profile.failed_savevm_changes_disks
        with nullcontext() if keep else unchanged_disks_on_failure(machine):
            wanted = _identity(machine, device, name, now)
            if name is not None:
                del_existing_snapshots(machine, name)
            size = _save_state(machine, device, trace)
            return _create(machine, device, wanted, size)


def _identity(
    machine: Machine, device: BlockDevice, name: str | None, now: datetime
) -> SnapshotInfo:
    """Name, id and times of the new snapshot; no id unless it replaces one."""
    if now.tzinfo is None:
        now = now.replace(tzinfo=UTC)
    dated = SnapshotInfo(
        name=now.strftime(_NAME_FORMAT) if name is None else cut_name(name),
        date_sec=int(now.timestamp()),
        date_nsec=now.microsecond * 1000,
        vm_clock_nsec=machine.clock.now_ns,
    )
    old = find_snapshot(device, name) if name is not None else None
    return dated if old is None else replace(dated, id_str=old.id_str, name=old.name)


def _save_state(machine: Machine, device: BlockDevice, trace: Trace | None) -> int:
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


def _create(
    machine: Machine, device: BlockDevice, wanted: SnapshotInfo, vm_state_size: int
) -> SnapshotInfo:
    refusals: list[str] = []
    code = 0
    created = wanted
    for disk in snapshot_disks(machine):
        # Only the image with the state says how large it is.  The id that the
        # first disk chooses is asked of the others too: they belong together.
        size = vm_state_size if disk is device else 0
        try:
            made = disk.snapshot_create(replace(wanted, vm_state_size=size))
        except OSError as error:
            refusals.append(f"Error while creating snapshot on '{disk.name}'")
            code = code or error.errno or EIO
            continue
        wanted = replace(wanted, id_str=made.id_str)
        if disk is device:
            created = made
    if refusals:
        raise SnapshotError("\n".join(refusals), errno=code)
    return created
