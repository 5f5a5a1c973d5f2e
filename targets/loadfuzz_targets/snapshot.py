"""Snapshots: the same streams by ``loadvm``, from the VM state area of a disk.

The area reads back as zeros behind the stream, and zero is the EOF marker; disks are
reverted and the machine is reset before anything is read.  A load that fails must
leave the disks as they were, too.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from loadfuzz.abc import Subject
from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.plan import FaultPlan
from loadfuzz.faults.source import FaultySource
from loadfuzz.faults.steps import InjectedKillError
from loadfuzz.faults.storage import FaultyDisk, faults_on
from loadfuzz.inputs import Delivery
from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.faulty_machine import faulty_hooks, refusals
from loadfuzz_targets.focus import FocusedTarget
from loadfuzz_targets.interruptions import cancellations, killed
from loadfuzz_targets.struck import StruckLog
from loadfuzz_targets.subject import MachineSubject
from savevm.board import DEVICE_SETS, machine_with
from savevm.errors import LoadError, SnapshotError
from savevm.machine import Machine
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_load import loadvm
from savevm.trace import Trace

DISK: Final = "disk0"
SECOND_DISK: Final = "disk1"
"""There only while something goes wrong: disks that go back one after the other."""
SNAPSHOT: Final = "s0"
DISK_BYTES: Final = 1 << 16
_THEN: Final = b"as it was when the snapshot was made"
_NOW: Final = b"what the guest has written since then"
_DEVICES: Final = "small"
_OPERATIONS: Final = ("list", "drain", "goto", "read-vmstate")
"""What a loadvm asks of a disk.  That it is put back after a failure is none of these: a disk
that cannot be cannot be as it was, so no load that failed so is atomic."""


class PiecewiseDisk(FaultyDisk):
    """A disk that gives the VM state in pieces of the caller's choosing.

    Attributes:
        pieces: sizes in bytes, repeated as long as needed; none for any size.
        wire: what the VM state comes through; ``None`` for nothing between.
    """

    pieces: Sequence[int] = ()
    wire: FaultySource | None = None
    _turn = 0

    def load_vmstate(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes of the VM state, and up to the next piece's end."""
        if self.pieces:
            size = min(size, self.pieces[self._turn % len(self.pieces)])
            self._turn += 1
        data = super().load_vmstate(position, size)
        return data if self.wire is None else bytes(self.wire.read(len(data)))


class SnapshotSubject(MachineSubject):
    """A machine with a disk, loaded by ``loadvm`` (:class:`loadfuzz.abc.Subject`).

    Args:
        machine: gets the disk; nobody else may touch it.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._disk = PiecewiseDisk(DISK, DISK_BYTES)
        self._second = FaultyDisk(SECOND_DISK, DISK_BYTES)
        self._second_differs = ""
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
            self._loadvm(trace)
        finally:
            disk.snapshot_delete_by_id_or_name(SNAPSHOT)

    def _loadvm(self, trace: Trace | None) -> None:
        try:
            loadvm(self.machine, SNAPSHOT, trace=trace, trace_fields=False)
        except SnapshotError as error:
            if isinstance(error.__cause__, LoadError):
                raise error.__cause__ from None
            raise LoadError(str(error), errno=error.errno) from None

    def reset(self) -> None:
        """Back to the start, the disk too."""
        super().reset()
        self._disk.write(0, _NOW)
        self._second_differs = ""

    def digest(self) -> str:
        """The machine's, and what is on its disk, which no stream carries."""
        contents = blake2b(self._disk.read(0, len(_NOW)), digest_size=8).hexdigest()
        return f"{super().digest()} ~{DISK}={contents}{self._second_differs}"

    # -- under faults ----------------------------------------------------------------------

    @property
    def layers(self) -> frozenset[Layer]:
        """Everything (:class:`loadfuzz.abc.TakesFaults`)."""
        return frozenset(Layer)

    def fault_places(self) -> Mapping[PlaceKind, Sequence[str]]:
        """Hooks that a load calls, and what it asks of the disks
        (:class:`loadfuzz.abc.NamesFaultPlaces`)."""
        operations = [
            f"{disk}/{operation}"
            for disk in (DISK, SECOND_DISK)
            for operation in _OPERATIONS
            if disk == DISK or operation != "read-vmstate"
        ]
        return {**super().fault_places(), PlaceKind.DISK: operations}

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        """Go back to ``stream`` while ``faults`` happen, with a second disk.

        The transport is what the VM state comes through when it is read; an operation of
        a disk is a step.  Writes of the guest are under way on both disks.  After a kill
        machine and disks are put back to the start: the process is gone, and another one
        begins.

        Raises:
            LoadError: the stream is refused, a disk failed, the load was cancelled
                (``ECANCELED``), or its process was killed (``EINTR``).
            UsageError: the plan names a hook or an operation that does not exist.
        """
        wire = FaultySource(stream, faults)
        contents = _NOW
        dead = False
        self._set_up(stream, delivery, wire)
        try:
            with faults_on((self._disk, self._second), faults) as storage:
                log = StruckLog(lambda: wire.struck, lambda: storage.struck)
                try:
                    with refusals(), cancellations(), faulty_hooks(self.machine, faults, log.add):
                        self._loadvm(trace)
                finally:
                    self._struck = log.all()
            contents = _THEN.ljust(len(_NOW))
        except InjectedKillError:
            dead = True
            raise killed() from None
        finally:
            self._take_down(contents)
            if dead:
                self.reset()

    def _set_up(self, stream: bytes, delivery: Delivery, wire: FaultySource) -> None:
        for disk, state in ((self._disk, stream), (self._second, b"")):
            disk.write(0, _THEN.ljust(len(_NOW)))
            disk.writev_vmstate([state], 0)
            disk.snapshot_create(SnapshotInfo(name=SNAPSHOT, vm_state_size=len(state)))
            disk.write(0, _NOW)
            # If it landed after the disk has gone back, it would be seen there.
            disk.submit_write(0, _NOW)
        self._disk.pieces = delivery.chunks
        self._disk.wire = wire
        self.machine.block_devices.append(self._second)

    def _take_down(self, contents: bytes) -> None:
        """Look at the second disk, which is to hold ``contents``, and take it away.  Only
        where it differs does the digest tell of it: a load without faults has no such disk."""
        self.machine.block_devices.remove(self._second)
        self._disk.wire = None
        for disk in (self._disk, self._second):
            disk.drain()
            disk.snapshot_delete_by_id_or_name(SNAPSHOT)
        found = self._second.read(0, len(_NOW))
        if found != contents:
            self._second_differs = f" ~{SECOND_DISK}={found.hex()}"


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
