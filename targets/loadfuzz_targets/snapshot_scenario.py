"""A machine with several disks and two snapshots, and the commands that are tried on it.

The guest runs; it has written to every disk since the last snapshot, and one more write
is under way on each.  So whatever a command leaves behind can be told from how it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.faults.steps import InjectedCancelError, InjectedKillError
from loadfuzz.faults.storage import FaultyDisk, StorageFaults, faults_on
from loadfuzz_targets.baseline import Baseline
from loadfuzz_targets.memory import MemoryImage
from savevm.block import BlockCheckpoint
from savevm.board import machine_with
from savevm.errors import SnapshotError
from savevm.machine import Machine, RunState
from savevm.profile import Profile
from savevm.snapshot import delvm, hmp_loadvm, info_snapshots, savevm
from savevm.snapshot_info import SnapshotListing

KEPT: Final = "keep"
"""The older snapshot, which no command names."""
NAMED: Final = "s"
"""The newer one."""
NEW: Final = "t"
"""One that there is not yet."""
DISK_BYTES: Final = 1 << 16
WAS_FIRST, WAS_THEN, IS_NOW, UNDER_WAY = b"1st ", b"then", b"now ", b"late"
"""What the guest had written when each snapshot was made, what it has written since, and
what is under way."""
_LATE_AT: Final = 4
_DEVICES: Final = ("timer", "ram", "cpu")
_STEPS: Final = 7
"""Guest steps between two snapshots; any would do."""
_DAY: Final = datetime(2015, 6, 30, 12, 0, tzinfo=UTC)


def _save_again(machine: Machine) -> None:
    savevm(machine, NAMED, now=_DAY + timedelta(hours=2))


def _save_new(machine: Machine) -> None:
    savevm(machine, NEW, now=_DAY + timedelta(hours=2))


def _load(machine: Machine) -> None:
    hmp_loadvm(machine, NAMED)


def _delete(machine: Machine) -> None:
    texts = delvm(machine, NAMED)
    if texts:
        raise SnapshotError("\n".join(texts))


COMMANDS: Final[Mapping[str, Callable[[Machine], None]]] = MappingProxyType(
    {
        f"savevm {NAMED}": _save_again,
        f"savevm {NEW}": _save_new,
        f"loadvm {NAMED}": _load,
        f"delvm {NAMED}": _delete,
    }
)
"""What is tried: a snapshot is replaced, made, gone back to, deleted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that can be told apart after a command, writes under way completed.

    Attributes:
        told: ``""`` for success, the text of a refusal; the name of any other exception.
        clean: it was a success or a refusal.
        disks: everything on each disk.
        memory: digest of the machine, the run state aside.
        runstate: of the machine.
        listing: what ``info snapshots`` shows.
    """

    told: str
    clean: bool
    disks: tuple[BlockCheckpoint, ...]
    memory: str
    runstate: RunState
    listing: SnapshotListing


class Scenario:
    """One machine that commands are tried on, one after the other.

    Args:
        profile: its manners.
        disks: how many.

    Attributes:
        machine: runs; nobody else may touch it.
        disks: named hd0, hd1, ...
    """

    def __init__(self, profile: Profile, disks: int) -> None:
        self.disks = tuple(FaultyDisk(f"hd{number}", DISK_BYTES) for number in range(disks))
        self.machine = self._machine(profile)
        self.machine.vm_start()
        for name, contents, hour in ((KEPT, WAS_FIRST, 0), (NAMED, WAS_THEN, 1)):
            self._write(contents)
            savevm(self.machine, name, now=_DAY + timedelta(hours=hour))
            self.machine.step(_STEPS)
        self._write(IS_NOW)
        for disk in self.disks:
            disk.submit_write(_LATE_AT, UNDER_WAY)
        assert self.machine.ram is not None
        self._state = Baseline(*self.machine.roots())
        self._memory = MemoryImage(self.machine.ram)
        self._disks = [disk.checkpoint() for disk in self.disks]

    def _machine(self, profile: Profile) -> Machine:
        machine = machine_with(*_DEVICES, profile=profile)
        assert machine.ram is not None
        block = machine.ram.blocks[0]
        # No zero pages, so that the VM state takes more than one write.
        block.write(0, bytes(1 + at % 251 for at in range(block.used_length)))
        machine.block_devices.extend(self.disks)
        return machine

    def _write(self, contents: bytes) -> None:
        for disk in self.disks:
            disk.write(0, contents)

    def rewind(self) -> None:
        """Everything as it was before the first command."""
        self._state.restore()
        self._memory.restore()
        for disk, checkpoint in zip(self.disks, self._disks, strict=True):
            disk.restore(checkpoint)

    def run(self, command: str, plan: FaultPlan = NO_FAULTS) -> tuple[Seen, StorageFaults]:
        """Try a command while ``plan`` strikes the disks.

        Returns:
            What there is afterwards, and what was done to the disks.

        Raises:
            KeyError: there is no such command.
        """
        told, clean = "", True
        self.rewind()
        with faults_on(self.disks, plan) as storage:
            try:
                COMMANDS[command](self.machine)
            except SnapshotError as error:
                told = error.reason
            except (Exception, InjectedCancelError, InjectedKillError) as error:
                told, clean = type(error).__name__, False
        return self.look(told, clean=clean), storage

    def look(self, told: str = "", *, clean: bool = True) -> Seen:
        """How everything is now."""
        machine = self.machine
        for disk in self.disks:
            disk.drain()
        runstate, machine.board.runstate = machine.runstate, RunState.RUNNING
        memory = machine.digest()
        machine.board.runstate = runstate
        disks = tuple(disk.checkpoint() for disk in self.disks)
        return Seen(told, clean, disks, memory, runstate, info_snapshots(machine))

    def next_process(self) -> Machine:
        """A new machine on the same disks, after the process of the old one has died."""
        return self._machine(self.machine.profile)
