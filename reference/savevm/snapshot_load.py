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
    missing_snapshot,
    snapshot_disks,
    unchanged_disks_on_failure,
    writable_disks,
)
from savevm.snapshot_info import SnapshotInfo
from savevm.state import Capture
from savevm.stopped import stop
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
            is that of a later QEMU.
    """
    device, info = _check(machine, name)
    for disk in machine.block_devices:
        disk.drain()
    if machine.profile.disks_revert_before_load:
        _revert_and_load(machine, device, info, name, trace, trace_fields)
        return
    with _unchanged_on_failure(machine):
        _revert_and_load(machine, device, info, name, trace, trace_fields)


def hmp_loadvm(machine: Machine, name: str, *, trace: Trace | None = None) -> None:
    """The monitor's loadvm: stop, load, and run again if the machine ran.

    After a failure the seed leaves the machine stopped; a strict profile lets
    it run on, since nothing has changed.

    Raises:
        SnapshotError: as :func:`loadvm`.
    """
    was_running = machine.is_running()
    stop(machine, RunState.RESTORE_VM)
    try:
        loadvm(machine, name, trace=trace)
    except BaseException:
        if was_running and not machine.profile.disks_revert_before_load:
            machine.vm_start()
        raise
    if was_running:
        machine.vm_start()


def _check(machine: Machine, name: str) -> tuple[BlockDevice, SnapshotInfo]:
    """The disk with the VM state and the snapshot there, all disks having it."""
    device = find_vmstate_bs(machine)
    if device is None:
        raise SnapshotError("No block device supports snapshots", errno=ENOTSUP)
    info = find_snapshot(device, name)
    if info is None:
        raise missing_snapshot(device, name)
    if info.vm_state_size == 0:
        raise SnapshotError(
            "This is a disk-only snapshot. Revert to it offline using qemu-img.", errno=EINVAL
        )
    for disk in writable_disks(machine):
        if find_snapshot(disk, name) is None:
            raise missing_snapshot(disk, name)
    return device, info


def _revert_and_load(
    machine: Machine,
    device: BlockDevice,
    info: SnapshotInfo,
    name: str,
    trace: Trace | None,
    trace_fields: bool,
) -> None:
    for disk in snapshot_disks(machine):
        try:
            disk.snapshot_goto(name)
        except OSError as error:
            code = error.errno or EIO
            raise SnapshotError(
                f"Error {-code} while activating snapshot '{name}' on '{disk.name}'", errno=code
            ) from error
    size = None if machine.profile.eof_reads_as_zero else info.vm_state_size
    f = QEMUFileReader(
        BlockSource(device, size),
        profile=machine.profile,
        trace=trace,
        trace_fields=trace_fields,
    )
    machine.reset()
    try:
        qemu_loadvm_state(f, machine)
    except LoadError as error:
        raise SnapshotError(
            f"Error {-error.errno} while loading VM state", errno=error.errno
        ) from error
    finally:
        # A flush that fails after reading says nothing about what was read.
        f.close()


@contextmanager
def _unchanged_on_failure(machine: Machine) -> Iterator[None]:
    before = Capture(*machine.roots())
    try:
        with unchanged_disks_on_failure(machine):
            yield
    except BaseException:
        before.restore()
        raise
