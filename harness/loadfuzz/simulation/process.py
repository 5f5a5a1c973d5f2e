"""A simulated QEMU process, and one attempt to move a machine from one to another."""

from loadfuzz.faults.kinds import CHANGES_BYTES
from loadfuzz.simulation.machines import Parts, Slot
from loadfuzz.simulation.network import Hear, Pipe, PipeSink, PipeSource
from loadfuzz.simulation.scenario import Act, Attempt
from loadfuzz.simulation.scheduler import Scheduler, Task
from savevm.machine import Machine, RunState
from savevm.migratable import migratable_digest
from savevm.migration import MigrationStatus
from savevm.trace import Trace


class Process:
    """A process and its machine.

    Args:
        name: for traces.
        slot: whose machine it has.

    Attributes:
        alive: it was neither killed nor thrown away.
        ran: its guest has run, at some time.
    """

    __slots__ = ("alive", "machine", "name", "ran", "slot")

    def __init__(self, name: str, slot: Slot) -> None:
        self.name = name
        self.slot = slot
        self.machine: Machine = slot.machine
        self.alive = True
        self.ran = False

    @property
    def running(self) -> bool:
        """Whether its guest runs now."""
        return self.alive and self.machine.board.runstate == RunState.RUNNING


class Move:
    """An attempt under way, and what came of it.

    Args:
        number: from 1.
        source, destination: the processes.
        attempt: what is asked, and what goes wrong.
        scheduler: of both sides' tasks.
        parts: the two sides of a migration.
        hear: told of what happens.
        trace: hears the load.

    Attributes:
        outgoing, incoming, pipe: the migration.
        steps: how often either side has run.
        acts: what is still to be done.
        done: what was.
        stopped_ns: when the source's guest was stopped for good; -1 until then.
        taken_over_ns: when the destination had everything; -1 until then.
        loaded_digest: of what it had then.
        left_alone: the operator did not stop the guest meanwhile.
    """

    def __init__(
        self,
        number: int,
        source: Process,
        destination: Process,
        attempt: Attempt,
        scheduler: Scheduler,
        parts: Parts,
        hear: Hear,
        trace: Trace | None,
    ) -> None:
        self.number = number
        self.source = source
        self.destination = destination
        self.attempt = attempt
        self.acts = list(attempt.acts)
        self.done: list[Act] = []
        self.steps = 0
        self.stopped_ns = -1
        self.taken_over_ns = -1
        self.loaded_digest = ""
        self.left_alone = True
        self._scheduler = scheduler
        self._hear = hear
        self.pipe = Pipe(scheduler, attempt.link, attempt.faults, hear)
        self.outgoing = parts.outgoing(
            source.machine,
            _Sink(self),
            attempt.parameters,
            now_ns=lambda: scheduler.now_ns,
            pause=scheduler.sleep,
            trace=self._heard_at(source.name),
        )
        self.incoming = parts.incoming(
            destination.machine,
            autostart=attempt.autostart,
            trace=self._heard_at(destination.name, trace),
            trace_fields=False,
        )
        self.source_task: Task = scheduler.spawn(source.name, self._send)
        self.destination_task: Task = scheduler.spawn(destination.name, self._receive)

    @property
    def ended(self) -> bool:
        """Whether the outcome is known on both sides."""
        return self.source_task.ended and self.destination_task.ended

    @property
    def sent(self) -> bool:
        """Whether the source says that all is there."""
        return self.outgoing.status is MigrationStatus.COMPLETED

    @property
    def loaded(self) -> bool:
        """Whether the destination says so."""
        return self.incoming.status is MigrationStatus.COMPLETED

    @property
    def tainted(self) -> bool:
        """Whether what was loaded may be something else than what was sent."""
        return any(fault.kind in CHANGES_BYTES for fault in self.pipe.struck)

    def count(self, task: Task) -> None:
        """A task has run."""
        if task is self.source_task or task is self.destination_task:
            self.steps += 1
            if self.stopped_ns < 0 and self.outgoing.stopped_digest is not None:
                self.stopped_ns = self._scheduler.now_ns

    def _send(self) -> None:
        status = self.outgoing.run()
        self._hear(self.source.name, f"{status} {self.outgoing.error}", self.outgoing.rounds)

    def _receive(self) -> None:
        incoming = self.incoming
        status = incoming.run(_Source(self))
        if status is MigrationStatus.COMPLETED:
            self.taken_over_ns = self._scheduler.now_ns
            self.loaded_digest = migratable_digest(self.destination.machine)
        self._hear(self.destination.name, f"{status} {incoming.error}", 0)

    def _heard_at(self, who: str, trace: Trace | None = None) -> Trace:
        hear = self._hear

        def heard(name: str, *arguments: object) -> None:
            hear(who, name, len(arguments))
            if trace is not None:
                trace(name, *arguments)

        return heard


class _Sink(PipeSink):
    """The source's end.  In a migration that is answered its close waits for the answer."""

    __slots__ = ("_move",)

    def __init__(self, move: Move) -> None:
        super().__init__(move.pipe)
        self._move = move

    def close(self) -> None:
        move = self._move
        move.pipe.end()
        if move.attempt.answered and move.outgoing.status is MigrationStatus.DEVICE:
            move.pipe.await_answer()


class _Source(PipeSource):
    """The destination's end; closing it is the answer."""

    __slots__ = ("_move",)

    def __init__(self, move: Move) -> None:
        super().__init__(move.pipe)
        self._move = move

    def close(self) -> None:
        self._move.pipe.answer(good=self._move.loaded)
        super().close()
