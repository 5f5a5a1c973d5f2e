"""What tests of a migration need: a source whose guest runs, a wire, and time.

Nothing here waits: a pause moves the clock and lets the guest run, and so may
a write.
"""

from collections.abc import Callable, Sequence
from errno import EIO
from typing import Final

from savevm.board import DEVICE_SETS, RAM_BYTES, machine_with
from savevm.machine import Machine, RunState
from savevm.migratable import migratable_digest
from savevm.migration import (
    NS_PER_SECOND,
    IncomingMigration,
    MigrationParameters,
    MigrationStatus,
    OutgoingMigration,
)
from savevm.qemufile import Buffer, ChunkSource
from savevm.ram.outgoing import Outgoing
from savevm.trace import Trace

GUEST_STEPS: Final = 50
"""Guest steps in a pause unless told otherwise: they write to about four pages."""
SLOW: Final = MigrationParameters(max_bandwidth=200_000, downtime_limit_ms=50)
"""Five pages a period; the guest may stand still for two and a half."""
LAZY: Final = MigrationParameters(max_bandwidth=200_000, downtime_limit_ms=400)
"""Most of 16 pages go over while the guest stands still, in several pieces."""
SEGMENT: Final = 1448
"""Bytes that arrive at once: a TCP segment on Ethernet."""


class Wire:
    """A sink that takes time, lets things happen, and fails where it is told to.

    Args:
        world: whose clock moves.
        fail_at: number of the write that fails, counted from 0; none of it
            arrives.
        error: how; an ``OSError`` if not given.
        during: called in each write with its number.
        bandwidth: bytes a second, 0 for no time at all.
        close_error: what ``close`` raises.

    Attributes:
        writes: what arrived.
        calls: writes that were tried.
        closed: how often it was closed.
    """

    def __init__(
        self,
        world: "MigrationWorld",
        *,
        fail_at: int = -1,
        error: BaseException | None = None,
        during: Callable[[int], None] | None = None,
        bandwidth: int = 0,
        close_error: BaseException | None = None,
    ) -> None:
        self.world = world
        self.fail_at = fail_at
        self.error = error or OSError(EIO, "the wire is cut")
        self.during = during
        self.bandwidth = bandwidth
        self.close_error = close_error
        self.writes: list[bytes] = []
        self.calls = 0
        self.closed = 0

    @property
    def data(self) -> bytes:
        """Everything that arrived."""
        return b"".join(self.writes)

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        """Take all pieces, or none and raise.

        Raises:
            BaseException: :attr:`error`.
            AssertionError: they do not continue what came before.
        """
        assert not self.closed, "a write after the close"
        assert position == len(self.data), "a gap in the stream"
        number, self.calls = self.calls, self.calls + 1
        if self.during is not None:
            self.during(number)
        if number == self.fail_at:
            raise self.error
        self.writes.append(b"".join(pieces))
        if self.bandwidth:
            self.world.now_ns += len(self.writes[-1]) * NS_PER_SECOND // self.bandwidth

    def close(self) -> None:
        """Count, and raise if that was asked for.

        Raises:
            BaseException: :attr:`close_error`.
        """
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class MigrationWorld:
    """A source with a guest that has run for a while, and virtual time.

    Args:
        devices: key of :data:`~savevm.board.DEVICE_SETS`, one with RAM.
        steps: guest steps in a pause.
        runstate: of the source.
        ram_bytes: of its memory, in which no page is zero.

    Attributes:
        source: the machine.
        now_ns: the time.
        pauses: how long each was, in nanoseconds.
        at_pause: called at the end of each with its number.
    """

    def __init__(
        self,
        devices: str = "small",
        *,
        steps: int = GUEST_STEPS,
        runstate: RunState = RunState.RUNNING,
        ram_bytes: int = RAM_BYTES,
    ) -> None:
        self._names = DEVICE_SETS[devices]
        self._ram_bytes = ram_bytes
        self.source = self.new_machine()
        assert self.source.ram is not None
        self.source.ram.blocks[0].write(0, bytes(range(256)) * (ram_bytes // 256))
        self.source.step(300)
        self.source.board.runstate = runstate
        self.steps = steps
        self.now_ns = 0
        self.pauses: list[int] = []
        self.at_pause: Callable[[int], None] | None = None

    def new_machine(self) -> Machine:
        """A machine like the source, as it is after power-on."""
        return machine_with(*self._names, ram_bytes=self._ram_bytes)

    def pause(self, ns: int) -> None:
        """Time passes; the guest runs if it may."""
        assert ns > 0, "a pause that takes no time"
        self.pauses.append(ns)
        self.now_ns += ns
        if self.source.is_running():
            self.source.step(self.steps)
        if self.at_pause is not None:
            self.at_pause(len(self.pauses) - 1)

    def migration(
        self,
        wire: Wire | None = None,
        parameters: MigrationParameters = SLOW,
        trace: Trace | None = None,
    ) -> OutgoingMigration:
        """A migration of the source that was not run yet."""
        return OutgoingMigration(
            self.source,
            wire or Wire(self),
            parameters,
            now_ns=lambda: self.now_ns,
            pause=self.pause,
            trace=trace,
        )

    def arrive(self, data: bytes, *, autostart: bool = False) -> tuple[Machine, IncomingMigration]:
        """A new machine that has taken in ``data``, or has failed to."""
        destination = self.new_machine()
        incoming = IncomingMigration(destination, autostart=autostart)
        incoming.run(ChunkSource.split(data, [SEGMENT]))
        return destination, incoming


def remembers_a_save(machine: Machine) -> bool:
    """Whether a save has left anything behind in RAM's handler or the registry."""
    ram, fresh = machine.ram, Outgoing()
    if machine.savevm.described:
        return True
    return ram is not None and any(
        getattr(ram.outgoing, slot) != getattr(fresh, slot) for slot in Outgoing.__slots__
    )


def assert_unharmed(world: MigrationWorld, runstate: RunState = RunState.RUNNING) -> None:
    """A migration that did not complete has left the source in ``runstate`` and
    nothing behind; another one succeeds, and carries everything.

    Raises:
        AssertionError: that is not so.
    """
    assert world.source.runstate is runstate
    assert not remembers_a_save(world.source)
    world.at_pause = None
    wire = Wire(world)
    again = world.migration(wire)
    assert again.run() is MigrationStatus.COMPLETED, again.error
    destination, incoming = world.arrive(wire.data)
    assert incoming.status is MigrationStatus.COMPLETED, incoming.error
    assert migratable_digest(destination) == again.stopped_digest
