"""loadvm: all disks and the machine back to a snapshot.

Source: ``load_vmstate`` of QEMU ``migration/savevm.c``, ``hmp_loadvm`` of
``monitor.c``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL, EIO, ENOTSUP

from savevm.block import BlockDevice
from savevm.errors import LoadError, SnapshotError
from savevm.load import qemu_loadvm_state
from savevm.machine import Machine, RunState
from savevm.qemufile import QEMUFileReader
from savevm.qemufile.blockfile import BlockSource
from savevm.snapshot_disks import (
    find_snapshot,
    find_vmstate_bs,
    list_snapshots,
    missing_snapshot,
    pick,
    refuse_unrest,
    snapshot_disks,
    writable_disks,
)
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_undo import Undo, all_or_nothing
from savevm.state import Capture
from savevm.stopped import drain_all, stop
from savevm.trace import Trace


def loadvm(
    machine: Machine, name: str, *, trace: Trace | None = None, trace_fields: bool = True
) -> None:
    """Go back to a snapshot, the run state aside (``load_vmstate``).

    Under a strict profile a load that fails leaves disks and machine as they
    were; under the seed's (``disks_revert_before_load``) the disks are at the
    snapshot, or some of them, and the machine is reset and half loaded.

    The VM state of a strict load ends where the snapshot says it does; with
    ``eof_reads_as_zero`` it goes on in the zeros that the disk gives.

    Args:
        machine: what is loaded into; its profile decides the manners.
        name: id or name of the snapshot.
        trace: hears the load.
        trace_fields: it hears every field, too.

    Raises:
        SnapshotError: with QEMU's text.  Its cause is the :class:`LoadError`
            where the stream was refused.  For a snapshot that the disk with the
            VM state lacks the seed returns ``ENOENT`` without a word; the text
            is that of a later QEMU.  A strict load that cannot put a disk back
            raises :class:`~savevm.snapshot_undo.NotPutBackError`: the machine is as
            it was and that disk is not, so the guest must not run.
    """
    _loadvm(machine, name, Undo(), trace, trace_fields)


def hmp_loadvm(machine: Machine, name: str, *, trace: Trace | None = None) -> None:
    """The monitor's loadvm: stop, load, and run again if the machine ran.

    After a failure the seed leaves the machine stopped; a strict profile lets
    it run on, since nothing has changed, unless a disk could not be put back:
    the old memory must not run on a disk that has gone back.

    Raises:
        SnapshotError: as :func:`loadvm`; under a strict profile, also: a disk
            cannot be brought to rest.
    """
    undo = Undo()
    was_running = machine.is_running()
    try:
        unrest = stop(machine, RunState.RESTORE_VM)
        if not machine.profile.close_errors_ignored:
            refuse_unrest(unrest)
        _loadvm(machine, name, undo, trace, trace_fields=True)
    except BaseException:
        if was_running and not machine.profile.disks_revert_before_load and not undo.left:
            machine.vm_start()
        raise
    if was_running:
        machine.vm_start()


def _loadvm(
    machine: Machine, name: str, undo: Undo, trace: Trace | None, trace_fields: bool
) -> None:
    if machine.profile.disks_revert_before_load:
        device, info = _check(machine, name)
        drain_all(machine)
        for disk in snapshot_disks(machine):
            _go_to(disk, name, name)
        _load_state(machine, _state_of(machine, device, info), trace, trace_fields)
        return
    device, info = _check_strictly(machine, name)
    refuse_unrest(drain_all(machine))
    with _unchanged_on_failure(machine, undo):
        for disk in snapshot_disks(machine):
            undo.remember(disk)
            _go_to(disk, info.id_str, name)
        _load_state(machine, _state_of(machine, device, info), trace, trace_fields)


# -- what must be true before anything is touched ----------------------------------------


def _check(machine: Machine, name: str) -> tuple[BlockDevice, SnapshotInfo]:
    """The disk with the VM state and the snapshot there, all disks having it."""
    device = _state_disk(machine)
    info = _with_state(device, find_snapshot(device, name), name)
    for disk in writable_disks(machine):
        if find_snapshot(disk, name) is None:
            raise missing_snapshot(disk, name)
    return device, info


def _check_strictly(machine: Machine, name: str) -> tuple[BlockDevice, SnapshotInfo]:
    """The same, all disks having the snapshot of the same moment."""
    device = _state_disk(machine)
    info = _with_state(device, pick(list_snapshots(device), name), name)
    for disk in writable_disks(machine):
        if disk is device:
            continue
        other = pick(list_snapshots(disk), info.id_str)
        if other is None:
            raise missing_snapshot(disk, name)
        if not other.made_with(info):
            raise SnapshotError(
                f"Device '{disk.name}' has a snapshot '{other.id_str}' of another moment than "
                f"device '{device.name}'",
                errno=EINVAL,
            )
    return device, info


def _state_disk(machine: Machine) -> BlockDevice:
    device = find_vmstate_bs(machine)
    if device is None:
        raise SnapshotError("No block device supports snapshots", errno=ENOTSUP)
    return device


def _with_state(device: BlockDevice, info: SnapshotInfo | None, name: str) -> SnapshotInfo:
    if info is None:
        raise missing_snapshot(device, name)
    if info.vm_state_size == 0:
        raise SnapshotError(
            "This is a disk-only snapshot. Revert to it offline using qemu-img.", errno=EINVAL
        )
    return info


# -- going there ------------------------------------------------------------------------------


class _ReadOnlySource(BlockSource):
    """Nothing was written, so that closing it need not flush the disk."""

    def close(self) -> None:
        pass


def _state_of(machine: Machine, device: BlockDevice, info: SnapshotInfo) -> BlockSource:
    size = None if machine.profile.eof_reads_as_zero else info.vm_state_size
    if machine.profile.disks_revert_before_load:
        return BlockSource(device, size)
    return _ReadOnlySource(device, size)


def _go_to(disk: BlockDevice, id_or_name: str, name: str) -> None:
    try:
        disk.snapshot_goto(id_or_name)
    except OSError as error:
        code = error.errno or EIO
        raise SnapshotError(
            f"Error {-code} while activating snapshot '{name}' on '{disk.name}'", errno=code
        ) from error


def _load_state(
    machine: Machine, source: BlockSource, trace: Trace | None, trace_fields: bool
) -> None:
    f = QEMUFileReader(source, profile=machine.profile, trace=trace, trace_fields=trace_fields)
    machine.reset()
    try:
        qemu_loadvm_state(f, machine)
    except LoadError as error:
        raise SnapshotError(
            f"Error {-error.errno} while loading VM state", errno=error.errno
        ) from error
    finally:
        # The seed flushes here, and a flush that fails says nothing about what was read.
        f.close()


@contextmanager
def _unchanged_on_failure(machine: Machine, undo: Undo) -> Iterator[None]:
    before = Capture(*machine.roots())
    try:
        with all_or_nothing(undo):
            yield
    except BaseException:
        before.restore()
        raise
