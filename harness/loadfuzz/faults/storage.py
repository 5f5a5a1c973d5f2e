"""Disks whose operations fail by plan, and a record of what was done to them.

Theory of operation.  A :class:`FaultyDisk` is a disk of the reference each of whose
operations first tells the :class:`StorageFaults` it is under.  That one counts it (by disk
and name, and among the steps of all disks together), records it, and lets it fail if the
plan says so.  So one run without faults lists every place of a command, and a sweep faults
each of them in turn.

Without :func:`faults_on` a FaultyDisk is a plain disk, so that what has to be there first
is made without counting.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EIO, ENOSPC
from os import strerror
from types import MappingProxyType
from typing import Final

from loadfuzz.errors import UsageError
from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, Place
from loadfuzz.faults.steps import InjectedKillError, Steps
from savevm.block import BlockCheckpoint, BlockDevice
from savevm.qemufile.sources import Buffer
from savevm.snapshot_info import SnapshotInfo

RECORDED_MAX: Final = 65_536
"""Operations that are recorded one by one: a savevm of 2 GiB in 32 KiB pieces.  Counts go on."""

_PLAIN: Final = (FaultKind.DISK_EIO, FaultKind.DISK_ENOSPC)
_WRITING: Final = (*_PLAIN, FaultKind.DISK_TORN)
_READING: Final = (*_PLAIN, FaultKind.DISK_SHORT)


@dataclass(frozen=True, slots=True)
class OperationRow:
    """What is known of an operation of a disk.

    Attributes:
        does: what it is, for people.
        kinds: faults that go with it; others never strike.
        torn: what a torn one of AMOUNT leaves behind before it fails.
    """

    does: str
    kinds: tuple[FaultKind, ...]
    torn: str = ""


OPERATIONS: Final[Mapping[str, OperationRow]] = MappingProxyType(
    {
        "read": OperationRow("the guest's disk is read", _PLAIN),
        "write": OperationRow("the guest's disk is written", _WRITING, "the first AMOUNT bytes"),
        "drain": OperationRow(
            "writes that are under way are completed", _WRITING,
            "the first AMOUNT bytes of them; all stay under way",
        ),
        "flush": OperationRow("what was written is made stable", _WRITING, "all of it"),
        "read-vmstate": OperationRow("a piece of the VM state is read", _READING),
        "write-vmstate": OperationRow(
            "a piece of the VM state is written", _WRITING, "the first AMOUNT bytes"
        ),
        "list": OperationRow("the snapshots are listed", _PLAIN),
        "create": OperationRow("a snapshot is made", _WRITING, "the snapshot, if AMOUNT is not 0"),
        "goto": OperationRow(
            "the disk goes back to a snapshot", _WRITING,
            "the first AMOUNT bytes of its contents; the rest is as it was",
        ),
        "delete": OperationRow(
            "a snapshot is deleted", _WRITING, "its absence, if AMOUNT is not 0"
        ),
        "restore": OperationRow(
            "the disk is put back after a failure", _WRITING,
            "the list of snapshots and the first AMOUNT bytes of the contents",
        ),
    }
)  # fmt: skip
"""Every operation, by the name that a place has it: ``disk:NAME/OPERATION#N``."""

_ERRNO: Final = {FaultKind.DISK_EIO: EIO, FaultKind.DISK_ENOSPC: ENOSPC, FaultKind.DISK_TORN: EIO}
_OPERATION: Final = re.compile(r"(?P<disk>.+)/(?P<operation>[^/]+)")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that happened.

    Attributes:
        disk: name of the disk.
        name: key of :data:`OPERATIONS`.
        number: how many of that name on that disk came before it.
    """

    disk: str
    name: str
    number: int

    @property
    def place(self) -> Place:
        """Where a fault of it strikes."""
        return Place(PlaceKind.DISK, self.number, f"{self.disk}/{self.name}")

    def faults(self) -> tuple[FaultKind, ...]:
        """Kinds that go with it."""
        return OPERATIONS[self.name].kinds

    def __str__(self) -> str:
        return f"{self.disk}/{self.name}#{self.number}"


def check_storage(plan: FaultPlan) -> None:
    """Whether the storage faults of a plan can be carried out.

    Raises:
        UsageError: one is at an operation that no disk has.
    """
    for fault in plan.on(Layer.STORAGE):
        match = _OPERATION.fullmatch(fault.place.name)
        if match is None or match["operation"] not in OPERATIONS:
            raise UsageError(
                f"{fault}: a place on a disk is DISK/OPERATION#N, where OPERATION is one of "
                f"{', '.join(OPERATIONS)}"
            )


class StorageFaults:
    """What goes wrong on some disks while one command runs.

    Args:
        plan: its storage and process faults are carried out; every operation is a step.

    Attributes:
        struck: the faults that have happened, in order.
        operations: what the disks were asked to do, in order, up to
            :data:`RECORDED_MAX`; the one that was interrupted included.

    Raises:
        UsageError: the plan names an operation that no disk has.
    """

    def __init__(self, plan: FaultPlan) -> None:
        check_storage(plan)
        self._pending = list(plan.on(Layer.STORAGE))
        self._steps = Steps(plan)
        self._counts: Counter[tuple[str, str]] = Counter()
        self.struck: list[Fault] = []
        self.operations: list[Operation] = []

    @property
    def steps(self) -> int:
        """Operations of all disks so far."""
        return self._steps.taken

    @property
    def dead(self) -> bool:
        """Whether the process was killed."""
        return self._steps.dead

    def begin(self, disk: str, name: str) -> Fault | None:
        """An operation is about to be carried out.

        Returns:
            A fault that lets it do something; it is up to the disk to do that.

        Raises:
            OSError: it fails and has done nothing.
            InjectedCancelError, InjectedKillError: it is interrupted.
        """
        if self._steps.dead:
            raise InjectedKillError
        number = self._counts[disk, name]
        self._counts[disk, name] += 1
        operation = Operation(disk, name, number)
        if len(self.operations) < RECORDED_MAX:
            self.operations.append(operation)
        interruptions = len(self._steps.struck)
        try:
            self._steps.step()
        finally:
            self.struck += self._steps.struck[interruptions:]
        fault = self._due(operation)
        if fault is None or fault.kind in (FaultKind.DISK_TORN, FaultKind.DISK_SHORT):
            return fault
        raise failure(fault)

    def _due(self, operation: Operation) -> Fault | None:
        place = operation.place
        for fault in self._pending:
            if fault.place == place and fault.kind in operation.faults():
                self._pending.remove(fault)
                self.struck.append(fault)
                return fault
        return None


def failure(fault: Fault) -> OSError:
    """The error that a fault of a disk is seen as."""
    code = _ERRNO[fault.kind]
    return OSError(code, strerror(code))


class FaultyDisk(BlockDevice):
    """A disk whose operations can fail; see the module.  A plain one until it is under
    :func:`faults_on`."""

    faults: StorageFaults | None = None

    def _begin(self, operation: str) -> Fault | None:
        return None if self.faults is None else self.faults.begin(self.name, operation)

    # -- the guest's disk --------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """See :meth:`BlockDevice.read`."""
        self._begin("read")
        return super().read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """See :meth:`BlockDevice.write`."""
        torn = self._begin("write")
        super().write(offset, data if torn is None else data[: torn.amount])
        _fail(torn)

    def drain(self) -> None:
        """See :meth:`BlockDevice.drain`."""
        torn = self._begin("drain")
        if torn is None:
            super().drain()
            return
        left = torn.amount
        for offset, data in self._in_flight:
            self._disk.write(offset, data[:left])
            left -= min(left, len(data))
        _fail(torn)

    def flush(self) -> None:
        """See :meth:`BlockDevice.flush`."""
        torn = self._begin("flush")
        super().flush()
        _fail(torn)

    # -- the VM state area ---------------------------------------------------------------

    def writev_vmstate(self, pieces: Sequence[Buffer], position: int) -> None:
        """See :meth:`BlockDevice.writev_vmstate`."""
        torn = self._begin("write-vmstate")
        if torn is not None:
            pieces = (b"".join(pieces)[: torn.amount],)
        super().writev_vmstate(pieces, position)
        _fail(torn)

    def load_vmstate(self, position: int, size: int) -> bytes:
        """See :meth:`BlockDevice.load_vmstate`."""
        short = self._begin("read-vmstate")
        return super().load_vmstate(position, size if short is None else min(size, short.amount))

    # -- snapshots ---------------------------------------------------------------------------

    def snapshot_list(self) -> list[SnapshotInfo]:
        """See :meth:`BlockDevice.snapshot_list`."""
        self._begin("list")
        return super().snapshot_list()

    def snapshot_create(self, info: SnapshotInfo) -> SnapshotInfo:
        """See :meth:`BlockDevice.snapshot_create`."""
        torn = self._begin("create")
        if torn is not None:
            if torn.amount:
                with suppress(OSError):
                    super().snapshot_create(info)
            raise failure(torn)
        return super().snapshot_create(info)

    def snapshot_delete(self, id_str: str | None, name: str | None) -> None:
        """See :meth:`BlockDevice.snapshot_delete`."""
        torn = self._begin("delete")
        if torn is not None:
            if torn.amount:
                with suppress(OSError):
                    super().snapshot_delete(id_str, name)
            raise failure(torn)
        super().snapshot_delete(id_str, name)

    def snapshot_goto(self, id_or_name: str) -> None:
        """See :meth:`BlockDevice.snapshot_goto`."""
        torn = self._begin("goto")
        if torn is None:
            super().snapshot_goto(id_or_name)
            return
        before = self.checkpoint()
        with suppress(OSError):
            super().snapshot_goto(id_or_name)
        self._tear(before, torn.amount)
        raise failure(torn)

    def restore(self, checkpoint: BlockCheckpoint) -> None:
        """See :meth:`BlockDevice.restore`."""
        torn = self._begin("restore")
        if torn is None:
            super().restore(checkpoint)
            return
        before = self.checkpoint()
        super().restore(checkpoint)
        self._tear(before, torn.amount)
        raise failure(torn)

    def _tear(self, before: BlockCheckpoint, amount: int) -> None:
        """Only the first ``amount`` bytes of the new contents have reached the disk."""
        head = self._disk.read(0, min(amount, self.size))
        self._disk = before.disk.copy()
        self._disk.write(0, head)
        self._vmstate = before.vmstate.copy()

    def forget_requests(self) -> None:
        """The process that had submitted writes is gone, and with it those writes that
        were under way still."""
        self._in_flight.clear()


def _fail(torn: Fault | None) -> None:
    if torn is not None:
        raise failure(torn)


@contextmanager
def faults_on(disks: Sequence[FaultyDisk], plan: FaultPlan = NO_FAULTS) -> Iterator[StorageFaults]:
    """Let a plan strike ``disks`` inside a ``with`` block; counts begin at 0.

    Behind the block they are plain disks again.  If the process was killed, what it had
    under way is lost, and their contents are what the next process finds.

    Yields:
        What happens meanwhile.

    Raises:
        UsageError: the plan names an operation that no disk has.
    """
    faults = StorageFaults(plan)
    for disk in disks:
        disk.faults = faults
    try:
        yield faults
    finally:
        for disk in disks:
            disk.faults = None
            if faults.dead:
                disk.forget_requests()
