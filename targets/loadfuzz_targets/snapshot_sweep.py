"""Every step of a snapshot command, on every disk, with every fault: what becomes of it.

A run of the command without faults lists its steps and says how everything is after a
success.  Whatever a fault leaves behind is held against that and against how it was
before; what is neither is a :class:`Harm`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, Place
from loadfuzz.faults.storage import Operation
from loadfuzz_targets.snapshot_scenario import COMMANDS, KEPT, NAMED, Scenario, Seen
from savevm.block import BlockCheckpoint, BlockSnapshot
from savevm.errors import SnapshotError
from savevm.machine import RunState
from savevm.snapshot import hmp_loadvm, info_snapshots
from savevm.snapshot_info import SnapshotInfo

KINDS: Final = (FaultKind.DISK_EIO, FaultKind.DISK_ENOSPC, FaultKind.DISK_TORN)
"""What every step is faulted with, as far as it goes with the operation."""
TORN_BYTES: Final = 2
"""Of a torn operation: half of what the guest had written, so that neither half is right."""


class Harm(StrEnum):
    """What must not be left behind by a command, whatever fails."""

    ESCAPED = "something else than an error of snapshots comes out"
    SILENT = "success is told and not all is as after a success"
    MIXED = "something is on some disks only"
    HIDDEN = "and `info snapshots` does not show it"
    NEITHER = "the lists are neither as before nor as after a success"
    LOST = "the snapshot that was there can no longer be loaded"
    OTHERS = "a snapshot that was not named is harmed"
    LACKS = "the new snapshot lacks what the guest had written"
    STOPPED = "the guest stays stopped"
    REVERTED = "disks have gone back, the memory has not"
    HALF = "the machine is reset or half loaded"
    DATA = "the guest's data is neither as it was nor as in the snapshot"
    RUNNING = "the guest runs where memory and disks do not belong together"
    JUNK = "VM state of no snapshot is left on a disk"


@dataclass(frozen=True, slots=True)
class Trial:
    """One command under one plan.

    Attributes:
        plan: what was to go wrong.
        struck: whether all of it did.
        seen: what there is afterwards.
        harms: what of that must not be.
    """

    plan: FaultPlan
    struck: bool
    seen: Seen
    harms: tuple[Harm, ...]


class Sweep:
    """One command on one scenario.

    Args:
        scenario: rewound before every run.
        command: key of :data:`~loadfuzz_targets.snapshot_scenario.COMMANDS`.

    Attributes:
        before: how everything is before the command.
        after: how everything is after a success.
        operations: the command's steps, in order.
    """

    def __init__(self, scenario: Scenario, command: str) -> None:
        self._scenario = scenario
        self._command = command
        self._name = command.split()[1]
        scenario.rewind()
        self.before = scenario.look()
        self.after, storage = scenario.run(command)
        assert not self.after.told, self.after.told
        self.operations: Sequence[Operation] = tuple(storage.operations)

    def trial(self, plan: FaultPlan) -> Trial:
        """The command while ``plan`` strikes."""
        seen, storage = self._scenario.run(self._command, plan)
        struck = len(storage.struck) == len(plan.faults)
        return Trial(plan, struck, seen, harms_of(seen, self.before, self.after))

    def single(self) -> Iterator[tuple[Operation, FaultKind, Trial]]:
        """Every step with every kind of fault that goes with it."""
        for operation in self.operations:
            for kind in KINDS:
                if kind in operation.faults():
                    yield operation, kind, self.trial(FaultPlan((fault_at(operation, kind),)))

    def putting_back(self) -> Iterator[tuple[FaultPlan, Trial]]:
        """Every fault of :meth:`single` after which disks are put back, together with a
        failure to put one of them back, for each that is."""
        for operation in self.operations:
            for kind in KINDS:
                if kind not in operation.faults():
                    continue
                first = fault_at(operation, kind)
                _, storage = self._scenario.run(self._command, FaultPlan((first,)))
                for later in storage.operations:
                    if later.name != "restore":
                        continue
                    for other in KINDS:
                        plan = FaultPlan((first, fault_at(later, other)))
                        yield plan, self.trial(plan)

    def cancelled_while_putting_back(self) -> Iterator[tuple[FaultPlan, Trial]]:
        """Every fault of :meth:`single` after which disks are put back, and the command
        cancelled while each of them is."""
        for operation in self.operations:
            first = fault_at(operation, FaultKind.DISK_EIO)
            _, storage = self._scenario.run(self._command, FaultPlan((first,)))
            for number, later in enumerate(storage.operations):
                if later.name == "restore":
                    plan = FaultPlan((first, *_interrupted(FaultKind.CANCEL, number).faults))
                    yield plan, self.trial(plan)

    def cancelled(self) -> Iterator[tuple[int, Trial]]:
        """The command cancelled at each of its steps."""
        for number in range(len(self.operations)):
            yield number, self.trial(_interrupted(FaultKind.CANCEL, number))

    def killed(self) -> Iterator[tuple[int, "Wreck"]]:
        """The process killed before each step of the command, and behind the last."""
        for number in range(len(self.operations) + 1):
            last = number == len(self.operations)
            plan = NO_FAULTS if last else _interrupted(FaultKind.KILL, number)
            self._scenario.run(self._command, plan)
            yield number, self._inspect()

    def again(self, plan: FaultPlan) -> bool:
        """Whether the command, tried once more after ``plan`` struck, brings everything
        in order: it succeeds and all lists are as after a success at once."""
        seen, storage = self._scenario.run(self._command, plan)
        del seen
        machine = self._scenario.next_process() if storage.dead else self._scenario.machine
        try:
            COMMANDS[self._command](machine)
        except SnapshotError:
            return False
        names = [{info.name for info in disk.snapshot_list()} for disk in self._scenario.disks]
        wanted = [{snapshot.info.name for snapshot in disk.snapshots} for disk in self.after.disks]
        return names == wanted and not info_snapshots(machine).partial

    def _inspect(self) -> "Wreck":
        """What the next process finds."""
        scenario = self._scenario
        disks = tuple(disk.checkpoint() for disk in scenario.disks)
        listing = info_snapshots(scenario.next_process())
        seen = zip(disks, self.before.disks, self.after.disks, strict=True)
        return Wreck(
            tuple(self._generation(*states) for states in seen),
            listed=any(info.name == self._name for info in listing.snapshots),
            hidden=_hides(disks, listing.text()),
            loads=self._loads(self._name, disks),
            others_load=self._loads(KEPT, disks) == OLD,
        )

    def _loads(self, name: str, disks: Sequence[BlockCheckpoint]) -> str:
        """What loading a snapshot in the next process brings back: which generation of it,
        or a mixture; ``""`` if that is refused.  The disks are put back afterwards."""
        scenario = self._scenario
        machine = scenario.next_process()
        try:
            hmp_loadvm(machine, name)
        except SnapshotError:
            return ""
        finally:
            contents = [disk.read(0, SEEN_BYTES) for disk in scenario.disks]
            for disk, checkpoint in zip(scenario.disks, disks, strict=True):
                disk.restore(checkpoint)
        for generation, seen in ((OLD, self.before), (NEWER, self.after)):
            for snapshot in seen.disks[0].snapshots:
                then = snapshot.disk.read(0, SEEN_BYTES)
                if snapshot.info.name == name and contents == [then] * len(contents):
                    return generation
        return MIXTURE

    def _generation(
        self, there: BlockCheckpoint, was: BlockCheckpoint, then: BlockCheckpoint
    ) -> str:
        found = _named(there, self._name)
        if found is None:
            return NONE
        if found == _named(was, self._name):
            return OLD
        return NEWER if found == _named(then, self._name) else MIXTURE


OLD, NEWER, NONE, MIXTURE = "old", "new", "none", "a mixture"
"""Generations of the snapshot that a command names."""
SEEN_BYTES: Final = 8
"""Of a disk: what the guest had written and what was under way."""


@dataclass(frozen=True, slots=True)
class Wreck:
    """What a killed process has left on the disks.

    Attributes:
        parts: which generation of the named snapshot each disk has.
        listed: ``info snapshots`` shows it as one that can be loaded.
        hidden: ``info snapshots`` does not show what is on some disks only.
        loads: which generation loading it brings back, ``""`` for none.
        others_load: the snapshot that was not named loads, with its contents.
    """

    parts: tuple[str, ...]
    listed: bool
    hidden: bool
    loads: str
    others_load: bool


def fault_at(operation: Operation, kind: FaultKind) -> Fault:
    """That fault of that step."""
    return Fault.of(kind, operation.place, TORN_BYTES if kind is FaultKind.DISK_TORN else None)


def _interrupted(kind: FaultKind, number: int) -> FaultPlan:
    return FaultPlan((Fault.of(kind, Place(PlaceKind.STEP, number)),))


def harms_of(seen: Seen, before: Seen, after: Seen) -> tuple[Harm, ...]:
    """What of ``seen`` must not be, given how it was before the command and how it is
    after a success."""
    return tuple(_harms(seen, before, after))


def _harms(seen: Seen, before: Seen, after: Seen) -> Iterator[Harm]:
    if not seen.clean:
        yield Harm.ESCAPED
    done = _lists(seen) == _lists(after)
    wanted = before if seen.told else after
    if not seen.told and _state(seen) != _state(after):
        yield Harm.SILENT
    if _uneven(seen):
        yield Harm.MIXED
    if _hides(seen.disks, seen.listing.text()):
        yield Harm.HIDDEN
    if seen.told and not done and _lists(seen) != _lists(before):
        yield Harm.NEITHER
    if seen.told and not done and not _has(seen, before, NAMED):
        yield Harm.LOST
    if done and [one.snapshots for one in seen.disks] != [one.snapshots for one in after.disks]:
        yield Harm.LACKS
    if not _has(seen, before, KEPT):
        yield Harm.OTHERS
    if seen.runstate is not RunState.RUNNING:
        yield Harm.STOPPED
    yield from _harms_of_state(seen, before, after)
    if [disk.vmstate for disk in seen.disks] != [disk.vmstate for disk in wanted.disks]:
        yield Harm.JUNK


def _harms_of_state(seen: Seen, before: Seen, after: Seen) -> Iterator[Harm]:
    old = seen.memory == before.memory
    new = seen.memory == after.memory
    if not old and not new:
        yield Harm.HALF
    contents = [disk.disk for disk in seen.disks]
    was = [disk.disk for disk in before.disks]
    then = [disk.disk for disk in after.disks]
    if any(there not in choices for there, *choices in zip(contents, was, then, strict=True)):
        yield Harm.DATA
    together = (old and contents == was) or (new and contents == then)
    if old and contents != was and was != then:
        yield Harm.REVERTED
    if not together and seen.runstate is RunState.RUNNING:
        yield Harm.RUNNING


def _lists(seen: Seen) -> list[list[SnapshotInfo]]:
    return [[snapshot.info for snapshot in disk.snapshots] for disk in seen.disks]


def _uneven(seen: Seen) -> bool:
    """Whether the disks do not have the same snapshots, made at the same moments."""
    first, *others = _lists(seen)
    return any(
        len(first) != len(there)
        or not all(one.made_with(other) for one, other in zip(first, there, strict=True))
        for there in others
    )


def _state(seen: Seen) -> object:
    return seen.disks, seen.memory


def _has(seen: Seen, before: Seen, name: str) -> bool:
    """Whether every disk has the snapshot of that name as it was."""
    return all(
        all(snapshot in now.snapshots for snapshot in was.snapshots if snapshot.info.name == name)
        for now, was in zip(seen.disks, before.disks, strict=True)
    )


def _hides(disks: Sequence[BlockCheckpoint], text: str) -> bool:
    """Whether a list of snapshots says less, or more, than is on the disks.

    Each has to be shown once for the machine if it is whole, else once for each disk that
    has a part of it.
    """
    lists = [[snapshot.info for snapshot in disk.snapshots] for disk in disks]
    whole = [
        info
        for info in lists[0]
        if all(any(info.made_with(other) for other in there) for there in lists[1:])
    ]
    parts = [
        info for there in lists for info in there if not any(info.made_with(one) for one in whole)
    ]
    shown = [line for line in text.split("\n") if line[:1].isdigit()]
    return sorted(shown) != sorted(info.line() for info in (*whole, *parts))


def _named(disk: BlockCheckpoint, name: str) -> BlockSnapshot | None:
    return next((one for one in disk.snapshots if one.info.name == name), None)
