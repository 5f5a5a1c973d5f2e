"""Snapshots: the same streams by ``loadvm``, from the VM state area of a disk.

The area reads back as zeros behind the stream, and zero is the EOF marker; disks are
reverted and the machine is reset before anything is read.  A load that fails must
leave the disks as they were, too.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from loadfuzz.abc import Subject
from loadfuzz.inputs import Delivery
from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget
from loadfuzz_targets.subject import MachineSubject
from savevm.block import BlockDevice
from savevm.board import DEVICE_SETS, machine_with
from savevm.errors import LoadError, SnapshotError
from savevm.machine import Machine
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_load import loadvm
from savevm.trace import Trace

DISK: Final = "disk0"
SNAPSHOT: Final = "s0"
DISK_BYTES: Final = 1 << 16
_THEN: Final = b"as it was when the snapshot was made"
_NOW: Final = b"what the guest has written since then"
_DEVICES: Final = "small"


class PiecewiseDisk(BlockDevice):
    """A disk that gives the VM state in pieces of the caller's choosing.

    Attributes:
        pieces: sizes in bytes, repeated as long as needed; none for any size.
    """

    pieces: Sequence[int] = ()
    _turn = 0

    def load_vmstate(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes of the VM state, and up to the next piece's end."""
        if self.pieces:
            size = min(size, self.pieces[self._turn % len(self.pieces)])
            self._turn += 1
        return super().load_vmstate(position, size)


class SnapshotSubject(MachineSubject):
    """A machine with a disk, loaded by ``loadvm`` (:class:`loadfuzz.abc.Subject`).

    Args:
        machine: gets the disk; nobody else may touch it.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._disk = PiecewiseDisk(DISK, DISK_BYTES)
        machine.block_devices.append(self._disk)
        self._disk.write(0, _NOW)

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Put ``stream`` into a snapshot and go back to that.

        Raises:
            LoadError: the stream is refused.
        """
        disk = self._disk
        disk.write(0, _THEN.ljust(len(_NOW)))
        disk.writev_vmstate([stream], 0)
        disk.snapshot_create(SnapshotInfo(name=SNAPSHOT, vm_state_size=len(stream)))
        disk.write(0, _NOW)
        disk.pieces = delivery.chunks
        try:
            loadvm(self.machine, SNAPSHOT, trace=trace, trace_fields=False)
        except SnapshotError as error:
            if isinstance(error.__cause__, LoadError):
                raise error.__cause__ from None
            raise LoadError(str(error), errno=error.errno) from None
        finally:
            disk.snapshot_delete_by_id_or_name(SNAPSHOT)

    def reset(self) -> None:
        """Back to the start, the disk too."""
        super().reset()
        self._disk.write(0, _NOW)

    def digest(self) -> str:
        """The machine's, and what is on its disk, which no stream carries."""
        contents = blake2b(self._disk.read(0, len(_NOW)), digest_size=8).hexdigest()
        return f"{super().digest()} ~{DISK}={contents}"


class SnapshotTarget(FocusedTarget):
    """See the module."""

    def open(self) -> Subject:
        """A machine with a disk."""
        return SnapshotSubject(machine_with(*DEVICE_SETS[_DEVICES]))


TARGET: Final = SnapshotTarget(
    "snapshot",
    "loadvm from the VM state area of a disk",
    operators={"*": 1},
    seeds=("small-*", "nic-*"),
    devices=(_DEVICES,),
)

test_snapshot = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
