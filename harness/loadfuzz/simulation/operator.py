"""What an operator does to a migration: the deeds of a scenario, and the decision at the end."""

from typing import Final

from loadfuzz.simulation.network import Hear
from loadfuzz.simulation.process import Move, Process
from loadfuzz.simulation.scenario import Act, Deed
from loadfuzz.simulation.scheduler import Scheduler
from savevm.machine import RunState
from savevm.migration import MigrationStatus

_UNDER_WAY: Final = frozenset({MigrationStatus.NONE, MigrationStatus.SETUP, MigrationStatus.ACTIVE})


class Operator:
    """Like libvirt: knows what both sides say, and nothing else.

    Args:
        scheduler: of the story.
        wants: whether the guest is to run.
        hear: told of what is done.

    Attributes:
        holds: the guest was stopped on purpose, and not yet continued.
    """

    __slots__ = ("_hear", "_scheduler", "holds", "wants")

    def __init__(self, scheduler: Scheduler, hear: Hear, *, wants: bool) -> None:
        self._scheduler = scheduler
        self._hear = hear
        self.wants = wants
        self.holds = False

    def act(self, move: Move, act: Act) -> None:
        """Do what is due.  A deed that makes no sense any more is left undone."""
        if self._do(move, act.deed):
            move.done.append(act)
            self._hear("operator", act.deed, move.steps)

    def _do(self, move: Move, deed: Deed) -> bool:
        match deed:
            case Deed.CANCEL:
                return self._cancel(move)
            case Deed.KILL_SOURCE:
                return self._kill(move, move.source)
            case Deed.KILL_DESTINATION:
                return self._kill(move, move.destination)
            case Deed.STOP:
                return self._stop(move)
            case Deed.CONT:
                return self._cont(move)

    def _cancel(self, move: Move) -> bool:
        if not move.source.alive:
            return False
        outgoing = move.outgoing
        outgoing.cancel()
        if outgoing.status is not MigrationStatus.CANCELLING:
            return False  # too late
        if move.attempt.wakes:
            move.pipe.shut_down()
            self._scheduler.wake(move.source_task)
        return True

    def _kill(self, move: Move, process: Process) -> bool:
        if not process.alive:
            return False
        process.alive = False
        if process is move.source:
            move.pipe.shut_down()
            self._scheduler.kill(move.source_task)
        else:
            move.pipe.forsake()
            self._scheduler.kill(move.destination_task)
        return True

    def _stop(self, move: Move) -> bool:
        if not move.source.running:
            return False
        move.source.machine.vm_stop(RunState.PAUSED)
        move.left_alone = False
        self.holds = True
        return True

    def _cont(self, move: Move) -> bool:
        # Not once the migration has stopped the guest: QEMU's own lock keeps others out then.
        if not self.holds or not move.source.alive or move.outgoing.status not in _UNDER_WAY:
            return False
        move.source.machine.vm_start()
        self.holds = False
        return True

    def settle(self, move: Move) -> Process | None:
        """Both sides' outcomes are known: let one of them run, throw the other one away.

        Returns:
            The process with the guest, or ``None`` where a kill has cost it.
        """
        source, destination = move.source, move.destination
        took_over = destination.running and not source.running
        if destination.alive and move.loaded and (move.sent or not source.alive or took_over):
            source.alive = False
            self._continue(destination)
            return destination
        if destination.ran or not source.alive:
            # What the guest did at the destination is gone with it: it must not do it twice.
            source.alive = destination.alive = False
            return None
        if move.loaded:
            destination.alive = False
        if move.sent or self.holds:
            self._continue(source)
        return source

    def _continue(self, process: Process) -> None:
        machine = process.machine
        if not process.running:
            machine.vm_start()
        if not self.wants:
            machine.vm_stop(RunState.PAUSED)
        self.holds = False
