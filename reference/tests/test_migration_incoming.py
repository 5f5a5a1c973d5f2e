"""The destination of a migration: it loads and takes over, or it waits and does not run."""

from collections.abc import Callable, Iterator
from errno import ECONNRESET, EIO

import pytest

from savevm.board import machine_of
from savevm.devices.globalstate import GlobalState
from savevm.machine import RunState
from savevm.migratable import migratable_digest
from savevm.migration import IncomingMigration, MigrationStatus
from savevm.qemufile import ChunkSource
from savevm.testing.migrations import MigrationWorld, Wire
from savevm.trace import TraceLog

COMPLETED, FAILED = MigrationStatus.COMPLETED, MigrationStatus.FAILED
RUNNING = RunState.RUNNING


class KilledError(BaseException):
    """Stands for what ends a coroutine from outside."""


Streams = Callable[[str, RunState], bytes]


@pytest.fixture(scope="module")
def streams() -> Streams:
    """Streams of a set of devices whose source was in a state, each made once."""
    made: dict[tuple[str, RunState], bytes] = {}

    def stream(devices: str, state: RunState) -> bytes:
        if (devices, state) not in made:
            world = MigrationWorld(devices, runstate=state)
            wire = Wire(world)
            assert world.migration(wire).run() is COMPLETED
            made[devices, state] = wire.data
        return made[devices, state]

    return stream


# -- who runs afterwards ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "source", "autostart", "expected"),
    [
        ("full", RunState.RUNNING, True, RunState.RUNNING),
        ("full", RunState.RUNNING, False, RunState.PAUSED),
        ("full", RunState.PAUSED, True, RunState.PAUSED),
        ("full", RunState.PAUSED, False, RunState.PAUSED),
        ("full", RunState.PRELAUNCH, True, RunState.PRELAUNCH),
        # Without the section nobody knows: such a source is taken to have run.
        ("small", RunState.PAUSED, True, RunState.RUNNING),
        ("small", RunState.PAUSED, False, RunState.PAUSED),
    ],
)
def test_the_guest_runs_where_it_is_to_run_and_ran(
    streams: Streams, devices: str, source: RunState, autostart: bool, expected: RunState
) -> None:
    destination = machine_of(devices)
    incoming = IncomingMigration(destination, autostart=autostart)
    assert incoming.run(ChunkSource([streams(devices, source)])) is incoming.status is COMPLETED
    assert (destination.runstate, incoming.error) == (expected, "")


def test_what_an_earlier_stream_said_does_not_count(streams: Streams) -> None:
    destination = machine_of("full")
    first = IncomingMigration(destination, autostart=True)
    first.run(ChunkSource([streams("full", RunState.PAUSED)]))
    assert destination.runstate is RunState.PAUSED
    second = IncomingMigration(destination, autostart=True)
    assert second.run(ChunkSource([streams("small", RUNNING)])) is COMPLETED
    assert destination.is_running()


@pytest.mark.parametrize(
    "state", ["io-error", "finish-migrate", "save-vm", "inmigrate", "guest-panicked"]
)
def test_a_state_that_is_no_rest_becomes_a_pause(state: str) -> None:
    destination = machine_of("none")
    device = destination.devices["globalstate"]
    assert isinstance(device, GlobalState)
    device.loaded_runstate = state
    incoming = IncomingMigration(destination, autostart=True)
    assert incoming.global_state_runstate() is RunState.PAUSED


@pytest.mark.parametrize("first", [True, False])
def test_whether_it_is_to_run_can_be_changed_while_it_waits(streams: Streams, first: bool) -> None:
    destination = machine_of("full")
    incoming = IncomingMigration(destination, autostart=first)

    def chunks() -> Iterator[bytes]:
        assert destination.runstate is RunState.INMIGRATE
        assert incoming.status is MigrationStatus.ACTIVE
        incoming.autostart = not first
        yield streams("full", RUNNING)

    incoming.run(ChunkSource(chunks()))
    assert destination.is_running() != first


def test_the_source_is_closed_when_the_guest_runs(streams: Streams) -> None:
    destination = machine_of("small")
    seen: list[RunState] = []

    class Closing(ChunkSource):
        def close(self) -> None:
            seen.append(destination.runstate)
            raise OSError(EIO, "nobody asks")

    incoming = IncomingMigration(destination, autostart=True)
    assert incoming.run(Closing([streams("small", RUNNING)])) is COMPLETED
    assert seen == [RUNNING]


def test_the_network_is_told_when_the_machine_has_loaded(streams: Streams) -> None:
    stream = streams("small", RUNNING)
    for data, frames in ((stream, 1), (stream[:9000], 0)):
        log = TraceLog()
        incoming = IncomingMigration(machine_of("small"), trace=log, trace_fields=False)
        incoming.run(ChunkSource([data]))
        assert len(log.named("qemu_announce_self_iter")) == frames
        assert incoming.announce.active() == bool(frames)
        assert log.named("vmstate_load_state_field") == []


# -- failures -------------------------------------------------------------------------------


def test_a_prefix_is_refused_and_changes_nothing(streams: Streams) -> None:
    stream = streams("full", RUNNING)
    end = stream.rindex(b'{"page_size"') - 6
    assert stream[end : end + 2] == b"\0\x06"
    destination = machine_of("full")
    IncomingMigration(destination).run(ChunkSource([stream]))
    destination.step(50)
    destination.board.runstate = RunState.INMIGRATE
    before = destination.digest()
    for size in (0, 3, *range(8, end, 1511), end, len(stream) - 1):
        incoming = IncomingMigration(destination, autostart=True)
        assert incoming.run(ChunkSource([stream[:size]])) is FAILED
        assert incoming.load_error is not None
        assert incoming.error == str(incoming.load_error) != ""
        assert destination.digest() == before
        assert destination.runstate is RunState.INMIGRATE


class FailingSource:
    """Gives what it has, then raises."""

    def __init__(self, data: bytes, error: BaseException) -> None:
        self.data = data
        self.error = error
        self.closed = 0

    def read(self, size: int) -> bytes:
        if not self.data:
            raise self.error
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("error", [OSError(ECONNRESET, "reset"), KilledError("gone")])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_source_that_fails_leaves_the_machine_waiting(
    streams: Streams, error: BaseException, part: float
) -> None:
    stream = streams("full", RUNNING)
    source = FailingSource(stream[: int(len(stream) * part)], error)
    destination = machine_of("full")
    destination.board.runstate = RunState.INMIGRATE
    before = destination.digest()
    incoming = IncomingMigration(destination, autostart=True)
    if isinstance(error, OSError):
        assert incoming.run(source) is FAILED
        assert "the source failed: reset" in incoming.error
    else:
        with pytest.raises(KilledError):
            incoming.run(source)
        assert (incoming.error, incoming.load_error) == ("KilledError: gone", None)
    assert (incoming.status, source.closed) == (FAILED, 1)
    assert destination.digest() == before
    assert destination.runstate is RunState.INMIGRATE
    again = IncomingMigration(destination, autostart=True)
    assert again.run(ChunkSource([stream])) is COMPLETED
    assert destination.is_running()


@pytest.mark.parametrize("state", [RUNNING, RunState.FINISH_MIGRATE])
def test_a_machine_that_does_something_else_takes_nothing_in(
    streams: Streams, state: RunState
) -> None:
    destination = machine_of("small")
    destination.board.runstate = state
    before = destination.digest()
    incoming = IncomingMigration(destination)
    assert incoming.run(ChunkSource([streams("small", RUNNING)])) is FAILED
    assert incoming.error == f"the machine does not wait for a migration: it is {state}"
    assert destination.digest() == before


def test_an_incoming_migration_runs_once() -> None:
    incoming = IncomingMigration(machine_of("small"))
    incoming.run(ChunkSource([]))
    with pytest.raises(RuntimeError, match="make another one"):
        incoming.run(ChunkSource([]))


# -- there and back ---------------------------------------------------------------------------


def test_a_guest_that_moved_can_move_back() -> None:
    world = MigrationWorld("full")
    wire = Wire(world)
    assert world.migration(wire).run() is COMPLETED
    destination, _ = world.arrive(wire.data, autostart=True)
    destination.step(100)
    there = MigrationWorld("full")
    there.source = destination
    back = Wire(there)
    migration = there.migration(back)
    assert migration.run() is COMPLETED
    incoming = IncomingMigration(world.source, autostart=True)
    assert incoming.run(ChunkSource([back.data])) is COMPLETED
    assert migratable_digest(world.source) == migration.stopped_digest
    assert world.source.is_running()
    assert not destination.is_running()
