"""Live migration: what arrives, how long the guest stands still, who is at the machine."""

from dataclasses import replace

import pytest

from savevm.block import BlockDevice
from savevm.devices.memdev import MemoryDevice
from savevm.machine import Machine, RunState
from savevm.migratable import migratable_digest
from savevm.migration import (
    NS_PER_MS,
    MigrationParameters,
    MigrationStatus,
    OutgoingMigration,
)
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.registry import SaveVMHandlers
from savevm.save import save_to_bytes
from savevm.testing import PlainDevice, plug, plug_handlers
from savevm.testing.migrations import (
    LAZY,
    SLOW,
    MigrationWorld,
    Wire,
    assert_unharmed,
    remembers_a_save,
)
from savevm.trace import TraceLog
from savevm.vmstate.description import VMStateDescription

COMPLETED, FAILED = MigrationStatus.COMPLETED, MigrationStatus.FAILED


def ends_of(machine: Machine) -> list[RunState]:
    """Records every run state that the machine is stopped into from now on."""
    seen: list[RunState] = []
    machine.stop_handlers.append(lambda: seen.append(machine.runstate))
    return seen


# -- success ------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", ["small", "ram", "full"])
def test_what_arrives_is_the_source_at_its_stop(devices: str) -> None:
    world = MigrationWorld(devices)
    wire, log = Wire(world), TraceLog()
    migration = world.migration(wire, trace=log)
    seen = ends_of(world.source)
    assert migration.run() is migration.status is COMPLETED
    assert (migration.error, wire.closed, seen) == ("", 1, [RunState.RUNNING])
    assert world.source.runstate is RunState.POSTMIGRATE
    assert migration.bytes_sent == len(wire.data)
    assert not remembers_a_save(world.source)
    assert migration.rounds == len(log.named("savevm_state_iterate")) > 2
    assert migration.stopped_digest == migratable_digest(world.source)
    destination, incoming = world.arrive(wire.data)
    assert incoming.status is COMPLETED
    assert migratable_digest(destination) == migration.stopped_digest
    destination.step(100)
    assert destination.check_invariants() == []


def test_pages_that_the_guest_writes_meanwhile_are_sent_again() -> None:
    world = MigrationWorld("ram")
    quiet = MigrationWorld("ram", steps=0)
    wire, other = Wire(world), Wire(quiet)
    assert world.migration(wire).run() is quiet.migration(other).run() is COMPLETED
    assert len(wire.data) > len(other.data) + 4096


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.PRELAUNCH, RunState.SHUTDOWN])
def test_a_source_that_does_not_run_arrives_as_it_is(state: RunState) -> None:
    world = MigrationWorld("full", runstate=state)
    wire = Wire(world)
    migration = world.migration(wire)
    assert migration.run() is COMPLETED
    assert world.source.runstate is RunState.POSTMIGRATE
    destination, _ = world.arrive(wire.data, autostart=True)
    assert destination.runstate is state
    assert migratable_digest(destination) == migration.stopped_digest


def test_the_disks_are_at_rest_before_the_state_is_saved() -> None:
    world = MigrationWorld()
    disk = BlockDevice("hd0", 1 << 20)
    world.source.block_devices.append(disk)
    disk.submit_write(0, b"late")
    assert world.migration().run() is COMPLETED
    assert disk.read(0, 4) == b"late"
    assert disk.flushes == 1


def test_statuses_and_numbers_before_it_runs() -> None:
    migration = MigrationWorld().migration()
    assert migration.status is MigrationStatus.NONE
    assert (migration.rounds, migration.downtime_ns, migration.bytes_sent) == (0, 0, 0)
    assert migration.stopped_digest is None


def test_it_says_how_far_it_is() -> None:
    world = MigrationWorld()
    seen: list[str] = []

    def look(number: int) -> None:
        if not seen or seen[-1] != migration.status:
            seen.append(migration.status)

    world.at_pause = look
    migration = world.migration(Wire(world, during=look))
    seen.append(migration.status)
    seen.append(migration.run())
    assert seen == ["none", "setup", "active", "device", "completed"]


# -- rate and downtime --------------------------------------------------------------------


def test_no_period_carries_more_than_a_page_above_its_share() -> None:
    world = MigrationWorld("ram")
    at: list[int] = []
    wire = Wire(world)
    world.at_pause = lambda number: at.append(len(wire.data))
    assert world.migration(wire).run() is COMPLETED
    sizes = [after - before for before, after in zip([0, *at], at, strict=False)]
    assert max(sizes) <= SLOW.rate_limit + 4096 + 64
    assert max(world.pauses) == SLOW.period_ms * NS_PER_MS


def test_a_send_that_took_time_shortens_the_pause() -> None:
    world = MigrationWorld("ram")
    assert world.migration(Wire(world, bandwidth=400_000)).run() is COMPLETED
    assert 0 < min(world.pauses) < 60 * NS_PER_MS


def test_without_a_limit_nothing_waits() -> None:
    world = MigrationWorld("ram")
    migration = world.migration(parameters=MigrationParameters(max_bandwidth=0))
    assert migration.run() is COMPLETED
    assert world.pauses == []
    assert migration.rounds == 1


def test_the_last_stage_knows_no_limit() -> None:
    world = MigrationWorld()
    limits: list[int] = []

    def look(f: QEMUFileWriter, opaque: PlainDevice) -> int:
        limits.append(f.get_rate_limit())
        return 0

    ops = SaveVMHandlers(save_live_setup=look, save_live_complete=look)
    plug_handlers(world.source, "live", ops, PlainDevice())
    assert world.migration().run() is COMPLETED
    assert limits == [SLOW.rate_limit, 0]


@pytest.mark.parametrize("limit_ms", [25, 100, 200])
def test_the_guest_stands_still_no_longer_than_was_asked_for(limit_ms: int) -> None:
    bandwidth = 400_000
    world = MigrationWorld("ram", steps=1)
    wire = Wire(world, bandwidth=bandwidth)
    asked = MigrationParameters(max_bandwidth=bandwidth, downtime_limit_ms=limit_ms)
    migration = world.migration(wire, asked)
    assert migration.run() is COMPLETED
    # What the devices send is not known before: here they send 1 600 bytes.
    assert 0 < migration.downtime_ns <= (limit_ms + 5) * NS_PER_MS


def test_a_longer_downtime_needs_fewer_rounds() -> None:
    rounds = []
    for limit_ms in (25, 1000):
        world = MigrationWorld("ram", steps=1)
        migration = world.migration(parameters=replace(SLOW, downtime_limit_ms=limit_ms))
        assert migration.run() is COMPLETED
        rounds.append(migration.rounds)
    assert rounds[0] > rounds[1]


def test_a_guest_that_is_too_fast_ends_the_migration_and_runs_on() -> None:
    world = MigrationWorld("ram", steps=400)
    wire = Wire(world)
    migration = world.migration(wire, replace(SLOW, rounds_max=7))
    assert migration.run() is FAILED
    assert migration.error.startswith("the migration does not converge: after 7 rounds ")
    assert migration.rounds == 7
    assert wire.closed == 1
    assert migration.stopped_digest is None
    world.steps = 4
    assert_unharmed(world)


@pytest.mark.parametrize(("steps", "outcome"), [(0, COMPLETED), (400, FAILED)])
def test_a_clock_that_stands_still_cannot_hold_a_migration(
    steps: int, outcome: MigrationStatus
) -> None:
    source = MigrationWorld("ram").source
    migration = OutgoingMigration(
        source,
        BytesSink(),
        replace(SLOW, rounds_max=50),
        now_ns=lambda: 5,
        pause=lambda ns: source.step(steps),
    )
    assert migration.run() is outcome


def test_parameters_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"max_bandwidth": -1},
        {"downtime_limit_ms": -1},
        {"rounds_max": 0},
        {"period_ms": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MigrationParameters(**wrong)
    assert MigrationParameters(max_bandwidth=1).rate_limit == 1


# -- who else is at the machine ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (RunState.FINISH_MIGRATE, "There's a migration process in progress"),
        (RunState.INMIGRATE, "Guest is waiting for an incoming migration"),
        (
            RunState.POSTMIGRATE,
            "Can't migrate the vm that was paused due to previous migration",
        ),
    ],
)
def test_a_machine_that_is_not_ready_is_not_touched(state: RunState, text: str) -> None:
    world = MigrationWorld(runstate=state)
    before = world.source.digest()
    told = ends_of(world.source)
    wire = Wire(world)
    migration = world.migration(wire)
    assert migration.run() is FAILED
    assert (migration.error, wire.data, wire.closed) == (text, b"", 1)
    assert (world.source.digest(), told) == (before, [])


def test_a_machine_that_migrates_already_does_not_begin_again() -> None:
    world = MigrationWorld()
    second = world.migration()

    def begin(number: int) -> None:
        if second.status is MigrationStatus.NONE:
            second.run()

    world.at_pause = begin
    assert world.migration().run() is COMPLETED
    assert second.error == "There's a migration process in progress"


def test_a_device_whose_state_has_gone_already_keeps_it_until_the_end() -> None:
    world = MigrationWorld("full")
    device = world.source.devices["memdev"]
    assert isinstance(device, MemoryDevice)

    def change(number: int) -> None:
        before = device.plugged, device.requested_blocks
        device.request(7)
        device.plug(3)
        assert (device.plugged, device.requested_blocks) == before
        if number == 2:
            migration.cancel()

    world.at_pause = change
    migration = world.migration()
    migration.run()
    device.request(7)
    assert device.requested_blocks == 7
    assert_unharmed(world)


def test_a_device_that_cannot_be_migrated_blocks() -> None:
    world = MigrationWorld()
    plug(world.source, VMStateDescription("stubborn", unmigratable=True), PlainDevice())
    migration = world.migration()
    assert migration.run() is FAILED
    assert migration.error == "State blocked by non-migratable device 'stubborn'"
    assert world.source.is_running()


@pytest.mark.parametrize("fail_at", [-1, 4])
def test_an_operator_who_stops_the_guest_meanwhile_finds_it_stopped(fail_at: int) -> None:
    world = MigrationWorld("full")

    def stop(number: int) -> None:
        if number == 1:
            world.source.vm_stop(RunState.PAUSED)

    world.at_pause = stop
    wire = Wire(world, fail_at=fail_at)
    if fail_at < 0:
        assert world.migration(wire).run() is COMPLETED
        assert world.arrive(wire.data, autostart=True)[0].runstate is RunState.PAUSED
    else:
        assert world.migration(wire).run() is FAILED
        assert_unharmed(world, RunState.PAUSED)


def last_write(world: MigrationWorld) -> int:
    """Number of the last write of a lazy migration of such a world."""
    wire = Wire(world)
    assert world.migration(wire, LAZY).run() is COMPLETED
    return wire.calls - 1


def test_an_operator_who_stops_the_guest_during_the_completion_has_the_last_word() -> None:
    world = MigrationWorld()

    def stop(number: int) -> None:
        if world.source.runstate is RunState.FINISH_MIGRATE:
            world.source.vm_stop(RunState.PAUSED)

    wire = Wire(world, during=stop, fail_at=last_write(MigrationWorld()))
    assert world.migration(wire, LAZY).run() is FAILED
    assert_unharmed(world, RunState.PAUSED)


@pytest.mark.parametrize("stops_again", [False, True])
def test_a_guest_that_is_continued_during_the_completion_is_not_handed_over(
    stops_again: bool,
) -> None:
    world = MigrationWorld()
    last = last_write(MigrationWorld())

    def carry_on(number: int) -> None:
        if number == last - 1:
            assert world.source.runstate is RunState.FINISH_MIGRATE
            world.source.vm_start()
            world.source.step(3)
            if stops_again:
                world.source.vm_stop(RunState.PAUSED)

    wire = Wire(world, during=carry_on)
    migration = world.migration(wire, LAZY)
    assert migration.run() is FAILED
    assert migration.error == "the guest was continued before the migration was complete"
    assert world.arrive(wire.data)[1].status is FAILED
    assert_unharmed(world, RunState.PAUSED if stops_again else RunState.RUNNING)


@pytest.mark.parametrize("where", ["pause", "round", "end"])
def test_another_save_takes_pages_away_and_so_fails_the_migration(where: str) -> None:
    # More than a batch, so that the END section goes out in pieces.
    world = MigrationWorld("ram", ram_bytes=1 << 20)

    def save(now: str) -> None:
        if now == where and not saved:
            saved.append(save_to_bytes(world.source))

    saved: list[bytes] = []
    asked = MigrationParameters(max_bandwidth=2_000_000, downtime_limit_ms=450)
    world.at_pause = lambda number: save("pause")
    stopped = RunState.FINISH_MIGRATE
    wire = Wire(
        world,
        during=lambda number: save(
            "end" if world.source.runstate is stopped else "round" if number > 1 else ""
        ),
    )
    migration = world.migration(wire, asked)
    assert migration.run() is FAILED
    assert len(saved) == 1
    assert (migration.stopped_digest is None) == (where != "end")
    assert migration.error in (
        "another save of the machine came between the rounds",
        "Error while writing VM state: Device or resource busy",
    )
    assert_unharmed(world)


def test_a_migration_runs_once() -> None:
    migration = MigrationWorld().migration()
    migration.run()
    with pytest.raises(RuntimeError, match="make another one"):
        migration.run()
