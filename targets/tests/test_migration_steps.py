"""What an operator can do to a machine, in any order, against a machine that never moves.

The model is a twin to which everything is done but the migrations; whatever they come to, the
guest must be in the twin's state, in one place, and run exactly when it is wanted to.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loadfuzz.faults.plan import NO_FAULTS, FaultPlan, fault_of
from loadfuzz.rng import Rng
from loadfuzz.simulation import promises
from loadfuzz.simulation.guest import GuestPace, tick
from loadfuzz.simulation.machines import KINDS, PAGE_BYTES, Parts, Slot
from loadfuzz.simulation.network import Link
from loadfuzz.simulation.operator import Operator
from loadfuzz.simulation.process import Move, Process
from loadfuzz.simulation.sameness import same
from loadfuzz.simulation.scenario import Act, Attempt, Deed
from loadfuzz.simulation.scheduler import Scheduler
from savevm.block import BlockDevice
from savevm.board import machine_with
from savevm.errors import SnapshotError
from savevm.machine import Machine, RunState
from savevm.migration import MigrationParameters, MigrationStatus
from savevm.snapshot import delvm, info_snapshots, loadvm, savevm
from savevm.testing.machines import PlainDevice, plug
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

CARD: Final = VMStateDescription("card", fields=(fields.uint32("value"),))
CARDS_MAX: Final = 3
NOW: Final = datetime(2015, 6, 30, tzinfo=UTC)
PACE: Final = GuestPace(1, 2, 2)
NAMES: Final = st.sampled_from(("one", "two"))
FAULTS: Final = st.sampled_from(
    ("", "", "reset@byte:3000", "half-close@byte:9000", "eio@write:4", "close@read:0", "eio@read:9",
     "stall@byte:3000=20", "stall@byte:3000=6000")
)  # fmt: skip
PARAMETERS: Final = MigrationParameters(
    max_bandwidth=400_000, downtime_limit_ms=30, rounds_max=60, period_ms=10
)
EARLY: Final = (MigrationStatus.NONE, MigrationStatus.SETUP, MigrationStatus.ACTIVE)
CLEAN: Final = Attempt(replace(PARAMETERS, downtime_limit_ms=10_000), Link(65536, 4096, 0))
STEPS_MAX: Final = 20_000


def unheard(who: str, what: str, number: int) -> None:
    """Nobody listens."""


class MigrationSteps(RuleBasedStateMachine):
    """See the module.

    Attributes:
        here: the process with the guest; while it moves, the source.
        twin: the model.
        move: the migration under way.
        failed: the destination that waits still after a failure.
        wanted: the guest is to run.
        saved: the machine was saved while it moved: the migration must notice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cards: list[int] = []
        self.disk = BlockDevice("disk0", 1 << 20)
        self.twin = self.build(BlockDevice("disk0", 1 << 20))
        self.here = Process("process 0", Slot(self.build(self.disk)))
        self.scheduler = Scheduler(Rng(1))
        self.operator = Operator(self.scheduler, unheard, wants=True)
        self.move: Move | None = None
        self.failed: Process | None = None
        self.wanted = True
        self.saved = False
        self.moves = 0
        for machine in (self.here.machine, self.twin):
            machine.vm_start()

    def build(self, disk: BlockDevice) -> Machine:
        machine = machine_with(*KINDS["small"], ram_bytes=6 * PAGE_BYTES)
        machine.block_devices.append(disk)
        for value in self.cards:
            plug(machine, CARD, PlainDevice(value=value))
        return machine

    @property
    def machine(self) -> Machine:
        return self.here.machine

    def idle(self) -> bool:
        return self.move is None

    def moving(self) -> bool:
        return self.move is not None

    def takes_orders(self) -> bool:
        """Whether nobody has stopped the guest for good: then QEMU takes no commands."""
        return self.move is None or self.move.outgoing.status in EARLY

    # -- the guest and its operator --------------------------------------------------------------

    @rule(ticks=st.integers(1, 8))
    def the_guest_runs(self, ticks: int) -> None:
        if self.here.running:
            for _ in range(ticks):
                tick(self.machine, PACE)
                tick(self.twin, PACE)

    @precondition(takes_orders)
    @rule()
    def stop(self) -> None:
        if self.here.running:
            self.machine.vm_stop(RunState.PAUSED)
        self.wanted = self.operator.wants = False

    @precondition(takes_orders)
    @rule()
    def cont(self) -> None:
        self.machine.vm_start()
        self.wanted = self.operator.wants = True

    @precondition(takes_orders)
    @rule(name=NAMES)
    def savevm(self, name: str) -> None:
        made = [savevm(machine, name, now=NOW) for machine in (self.machine, self.twin)]
        assert made[0].name == made[1].name == name
        self.saved = self.saved or (
            self.move is not None and self.move.outgoing.status is not MigrationStatus.NONE
        )

    @precondition(takes_orders)
    @rule(name=NAMES)
    def loadvm(self, name: str) -> None:
        self.both_or_neither(lambda machine: loadvm(machine, name))

    @precondition(takes_orders)
    @rule(name=NAMES)
    def delvm(self, name: str) -> None:
        self.both_or_neither(lambda machine: delvm(machine, name))

    def both_or_neither(self, command: object) -> None:
        assert callable(command)
        refused = []
        for machine in (self.machine, self.twin):
            try:
                command(machine)
            except SnapshotError as error:
                refused.append(str(error))
        assert len(refused) in (0, 2)
        assert len(set(refused)) < 2

    @precondition(lambda self: self.idle() and len(self.cards) < CARDS_MAX)
    @rule(value=st.integers(0, 99))
    def hot_plug(self, value: int) -> None:
        for machine in (self.machine, self.twin):
            plug(machine, CARD, PlainDevice(value=value))
        self.cards.append(value)
        # What is plugged in is there to stay; a destination without it is of no use.
        self.here = Process(self.here.name, Slot(self.machine))
        self.failed = None

    # -- migrations ------------------------------------------------------------------------------

    @precondition(idle)
    @rule(fault=FAULTS, answered=st.booleans(), narrow=st.booleans(), again=st.booleans())
    def start(self, fault: str, answered: bool, narrow: bool, again: bool) -> None:
        plan = FaultPlan((fault_of(fault),)) if fault else NO_FAULTS
        link = Link(512 if narrow else 8192, 1448, 1_000_000)
        self.begin(Attempt(PARAMETERS, link, plan, answered=answered), again=again)

    def begin(self, attempt: Attempt, *, again: bool) -> None:
        self.moves += 1
        destination = self.failed if again else None
        if destination is None:
            machine = self.build(self.disk)
            machine.board.runstate = RunState.INMIGRATE
            destination = Process(f"process {self.moves}", Slot(machine))
        self.failed = None
        self.saved = False
        self.move = Move(
            self.moves, self.here, destination, attempt, self.scheduler, Parts(), unheard, None
        )

    @precondition(moving)
    @rule(steps=st.integers(1, 25))
    def proceed(self, steps: int) -> None:
        move = self.move
        assert move is not None
        for _ in range(steps):
            if move.ended:
                return
            move.count(self.scheduler.step())
            assert promises.stands_still(move) is None
            assert promises.nobody_too_early(move) is None

    @precondition(moving)
    @rule(deed=st.sampled_from((Deed.CANCEL, Deed.CANCEL, Deed.KILL_DESTINATION)))
    def interfere(self, deed: Deed) -> None:
        assert self.move is not None
        self.operator.act(self.move, Act(deed, self.move.steps))

    @precondition(moving)
    @rule()
    def finish(self) -> None:
        move = self.move
        assert move is not None
        for _ in range(STEPS_MAX):
            if move.ended:
                break
            move.count(self.scheduler.step())
        assert move.ended
        assert self.scheduler.tasks == []
        found = (promises.outcomes(move), promises.cancelled(move), promises.same_state(move),
                 promises.nothing_left(move, ()))  # fmt: skip
        assert found == (None, None, None, None)
        assert not (self.saved and move.sent), "a save between the rounds was not noticed"
        waits = move.destination if move.destination.alive and not move.loaded else None
        runner = self.operator.settle(move)
        assert runner is not None
        self.move, self.failed, self.here = None, waits, runner
        assert promises.one_runs(move, runner, wanted=self.wanted) is None

    @precondition(idle)
    @rule(again=st.booleans())
    def migrate_at_last(self, again: bool) -> None:
        source = self.here
        self.begin(CLEAN, again=again)
        self.finish()
        assert self.here is not source

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def the_guest_is_as_if_it_had_never_moved(self) -> None:
        assert same(self.machine, self.twin)
        assert self.machine.check_invariants() == []

    @invariant()
    def it_runs_where_it_is_and_when_it_is_wanted(self) -> None:
        if self.idle():
            assert self.here.running is self.wanted
        elif self.move is not None:
            assert not self.move.destination.running

    @invariant()
    def snapshots_go_with_the_disk(self) -> None:
        assert info_snapshots(self.machine) == info_snapshots(self.twin)

    def teardown(self) -> None:
        if self.moving():
            self.finish()
            self.the_guest_is_as_if_it_had_never_moved()
        assert self.scheduler.end_all() == ()


TestMigrationSteps = MigrationSteps.TestCase
TestMigrationSteps.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
