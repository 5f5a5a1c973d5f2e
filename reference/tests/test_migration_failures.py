"""A migration that is cancelled or fails leaves the source as it was, and nothing behind."""

from dataclasses import replace
from errno import ECONNRESET, EIO, ENOSPC

import pytest

from savevm.block import BlockDevice
from savevm.errors import SavevmError
from savevm.machine import RunState
from savevm.migration import MigrationParameters, MigrationStatus, OutgoingMigration
from savevm.migration_channel import MigrationChannel
from savevm.profile import STRICT
from savevm.qemufile import BytesSink
from savevm.registry import SaveVMHandlers
from savevm.testing import PlainDevice, plug, plug_handlers
from savevm.testing.migrations import (
    LAZY,
    SLOW,
    MigrationWorld,
    Wire,
    assert_unharmed,
    remembers_a_save,
)
from savevm.vmstate.description import VMStateDescription

COMPLETED, FAILED, CANCELLED = (
    MigrationStatus.COMPLETED,
    MigrationStatus.FAILED,
    MigrationStatus.CANCELLED,
)

each_set = pytest.mark.parametrize("devices", ["small", "ram", "full"])
each_pace = pytest.mark.parametrize("asked", [SLOW, LAZY], ids=["slow", "lazy"])


class KilledError(BaseException):
    """Stands for what ends a thread from outside."""


def counted(devices: str, asked: MigrationParameters) -> tuple[int, int]:
    """How many pauses and writes a migration without trouble has."""
    world = MigrationWorld(devices)
    wire = Wire(world)
    assert world.migration(wire, asked).run() is COMPLETED
    assert len(world.pauses) >= (1 if asked is LAZY else 4)
    assert wire.calls >= (4 if asked is LAZY else 7)
    return len(world.pauses), wire.calls


# -- cancel -------------------------------------------------------------------------------


@each_set
@each_pace
def test_a_cancel_in_any_pause_lets_the_guest_run_on(
    devices: str, asked: MigrationParameters
) -> None:
    pauses, _ = counted(devices, asked)
    for when in range(pauses):
        world = MigrationWorld(devices)
        wire = Wire(world)
        migration = world.migration(wire, asked)
        world.at_pause = lambda n, when=when, migration=migration: (
            migration.cancel() if n == when else None
        )
        assert migration.run() is CANCELLED
        assert len(world.pauses) == when + 1
        assert (migration.error, migration.downtime_ns, wire.closed) == ("", 0, 1)
        _, incoming = world.arrive(wire.data)
        assert incoming.status is FAILED
        assert_unharmed(world)


@each_set
@each_pace
def test_a_cancel_in_any_write_but_the_last_stops_the_rest(
    devices: str, asked: MigrationParameters
) -> None:
    _, writes = counted(devices, asked)
    for when in range(writes):
        world = MigrationWorld(devices)
        wire = Wire(world)
        migration = world.migration(wire, asked)
        wire.during = lambda n, when=when, migration=migration: (
            migration.cancel() if n == when else None
        )
        last = when == writes - 1
        assert migration.run() is (COMPLETED if last else CANCELLED)
        assert wire.calls == when + 1
        _, incoming = world.arrive(wire.data)
        assert incoming.status is migration.status or incoming.status is FAILED
        assert (incoming.status is COMPLETED) == last
        if not last:
            assert_unharmed(world)


def test_differences_begin_anew_after_a_cancel() -> None:
    world = MigrationWorld("ram", steps=400)
    ram = world.source.ram
    assert ram is not None
    ram.xbzrle = True
    seen: list[int] = []

    def cancel(number: int) -> None:
        assert ram.outgoing.cache is not None
        seen.append(len(ram.outgoing.cache))
        if number == 5:
            migration.cancel()

    world.at_pause = cancel
    migration = world.migration(parameters=replace(SLOW, downtime_limit_ms=1))
    assert migration.run() is CANCELLED
    assert seen[-1] > 0
    assert_unharmed(world)


def test_a_migration_that_is_cancelled_first_sends_nothing() -> None:
    world = MigrationWorld()
    wire = Wire(world)
    migration = world.migration(wire)
    migration.cancel()
    assert migration.status is MigrationStatus.CANCELLING
    assert migration.run() is CANCELLED
    assert (wire.data, wire.closed) == (b"", 1)
    assert_unharmed(world)


def test_once_the_last_piece_is_on_its_way_a_cancel_does_nothing() -> None:
    _, writes = counted("small", SLOW)
    for close_error, outcome in ((None, COMPLETED), (OSError(EIO, "lost"), FAILED)):
        world = MigrationWorld()
        wire = Wire(world, close_error=close_error)
        migration = world.migration(wire)

        def cancel(number: int, migration: OutgoingMigration = migration) -> None:
            if number == writes - 1:
                migration.cancel()
                assert migration.status is MigrationStatus.DEVICE

        wire.during = cancel
        assert migration.run() is outcome


def test_a_channel_that_was_shut_down_does_not_send_its_last_piece() -> None:
    sink = BytesSink()
    channel = MigrationChannel(sink)
    channel.writev([b"ab", b"c"], 0)
    channel.keep_last()
    channel.writev([b"de"], 3)
    channel.writev([b"f"], 5)
    assert (bytes(sink.data), channel.bytes_sent) == (b"abcde", 5)
    channel.shutdown()
    with pytest.raises(OSError, match="shut down"):
        channel.commit()
    assert (bytes(sink.data), channel.committed) == (b"abcde", False)


def test_after_the_end_a_cancel_does_nothing() -> None:
    world = MigrationWorld()
    migration = world.migration()
    migration.run()
    migration.cancel()
    assert migration.status is COMPLETED
    failed = MigrationWorld()
    migration = failed.migration(Wire(failed, fail_at=0))
    migration.run()
    migration.cancel()
    assert migration.status is FAILED


# -- failures -------------------------------------------------------------------------------


@each_set
@each_pace
def test_a_failure_of_any_write_lets_the_guest_run_on(
    devices: str, asked: MigrationParameters
) -> None:
    _, writes = counted(devices, asked)
    for when in range(writes):
        world = MigrationWorld(devices)
        wire = Wire(world, fail_at=when)
        migration = world.migration(wire, asked)
        assert migration.run() is FAILED
        assert migration.error == "Error while writing VM state: the wire is cut"
        assert (wire.calls, wire.closed) == (when + 1, 1)
        destination, incoming = world.arrive(wire.data, autostart=True)
        assert incoming.status is FAILED
        assert destination.runstate is RunState.INMIGRATE
        assert_unharmed(world)


@pytest.mark.parametrize("error", [KilledError("gone"), RuntimeError("a bug"), OSError()])
def test_whatever_comes_out_of_any_write_the_guest_runs_on(error: BaseException) -> None:
    _, writes = counted("small", LAZY)
    for when in range(writes):
        world = MigrationWorld()
        wire = Wire(world, fail_at=when, error=error)
        migration = world.migration(wire, LAZY)
        if isinstance(error, OSError):
            assert migration.run() is FAILED
        else:
            with pytest.raises(type(error)):
                migration.run()
            assert migration.error == f"{type(error).__name__}: {error}"
        assert migration.status is FAILED
        assert wire.closed == 1
        assert_unharmed(world)


@pytest.mark.parametrize("error", [KilledError(), OSError(ECONNRESET, "reset")])
def test_an_exception_in_a_pause_lets_the_guest_run_on(error: BaseException) -> None:
    world = MigrationWorld()

    def fail(number: int) -> None:
        if number == 1:
            raise error

    world.at_pause = fail
    migration = world.migration()
    with pytest.raises(type(error)):
        migration.run()
    assert migration.status is FAILED
    assert_unharmed(world)


@pytest.mark.parametrize("error", [OSError(ENOSPC, "no space"), KilledError()])
def test_a_close_that_fails_has_the_last_word(error: BaseException) -> None:
    world = MigrationWorld()
    wire = Wire(world, close_error=error)
    migration = world.migration(wire)
    if isinstance(error, OSError):
        assert migration.run() is FAILED
        assert migration.error == "Error while writing VM state: no space"
    else:
        with pytest.raises(KilledError):
            migration.run()
    assert (migration.status, wire.closed, migration.downtime_ns) == (FAILED, 1, 0)
    assert_unharmed(world)


def test_in_qemu_nobody_looks_at_what_close_says() -> None:
    world = MigrationWorld()
    world.source.profile = replace(STRICT, close_errors_ignored=True)
    assert world.migration(Wire(world, close_error=OSError(EIO, "late"))).run() is COMPLETED
    assert world.source.runstate is RunState.POSTMIGRATE


def test_a_cancelled_migration_is_cancelled_whatever_else_happens() -> None:
    world = MigrationWorld()
    wire = Wire(world, fail_at=3, error=KilledError())
    migration = world.migration(wire)
    wire.during = lambda number: migration.cancel() if number == 3 else None
    wire.close_error = KilledError()
    with pytest.raises(KilledError):
        migration.run()
    assert (migration.status, migration.error) == (CANCELLED, "")
    assert_unharmed(world)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.PRELAUNCH])
def test_a_paused_source_stays_paused_through_any_failure(state: RunState) -> None:
    world = MigrationWorld(runstate=state)
    wire = Wire(world)
    assert world.migration(wire, LAZY).run() is COMPLETED
    for when in range(wire.calls):
        world = MigrationWorld(runstate=state)
        before = world.source.digest()
        assert world.migration(Wire(world, fail_at=when), LAZY).run() is FAILED
        assert world.source.digest() == before
        assert_unharmed(world, state)


def test_a_device_that_refuses_to_be_saved_fails_the_migration() -> None:
    def pre_save(state: PlainDevice) -> int:
        return -EIO if refuses else 0

    refuses = True
    for early in (False, True):
        refuses = True
        world = MigrationWorld()
        vmsd = VMStateDescription("moody", pre_save=pre_save, early_setup=early)
        plug(world.source, vmsd, PlainDevice())
        wire = Wire(world)
        migration = world.migration(wire)
        assert migration.run() is FAILED
        assert "moody" in migration.error
        assert wire.closed == 1
        assert world.source.is_running()
        assert not remembers_a_save(world.source)
        refuses = False
        assert world.migration().run() is COMPLETED


def test_a_disk_that_does_not_come_to_rest_fails_the_migration() -> None:
    class Worn(BlockDevice):
        def flush(self) -> None:
            raise OSError(EIO, "the disk says no")

    world = MigrationWorld()
    world.source.block_devices.append(Worn("hd0", 4096))
    migration = world.migration()
    assert migration.run() is FAILED
    assert migration.error == "Error while flushing device 'hd0': the disk says no"
    world.source.block_devices.clear()
    assert_unharmed(world)


@pytest.mark.parametrize("stage", ["setup", "iterate", "complete", "raise"])
def test_a_live_handler_that_fails_is_told_to_cancel_and_so_are_the_others(stage: str) -> None:
    world = MigrationWorld()
    told: list[str] = []

    def answer(mine: str) -> int:
        if stage == "raise" and mine == "iterate":
            raise SavevmError("a bug of the handler")
        return -ENOSPC if mine == stage else 1

    ops = SaveVMHandlers(
        save_live_setup=lambda f, opaque: min(answer("setup"), 0),
        save_live_iterate=lambda f, opaque: answer("iterate"),
        save_live_complete=lambda f, opaque: min(answer("complete"), 0),
        save_live_pending=lambda f, opaque, max_size: 1 << 30 if not told else 0,
        cancel=lambda opaque: told.append("cancel"),
    )
    plug_handlers(world.source, "live", ops, PlainDevice())
    migration = world.migration(parameters=replace(SLOW, max_bandwidth=0, rounds_max=3))
    if stage == "raise":
        with pytest.raises(SavevmError):
            migration.run()
    else:
        if stage == "complete":
            told.append("little is left")
        assert migration.run() is FAILED
        assert migration.error == "Error while writing VM state: No space left on device"
    assert told[-1] == "cancel"
    assert world.source.is_running()
    assert not remembers_a_save(world.source)
