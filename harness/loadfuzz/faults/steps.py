"""Steps of an operation in this process, and what a plan does to them: cancel, kill.

A step is any moment at which the operation could be interrupted: a read of its source, an
operation of a disk.  They are counted from 0, and an interruption comes instead of the
step, so sweeping all numbers up to the count interrupts before each and, with the count
itself, behind the last: there it strikes nothing.

Cancelled is what an event loop does: :class:`asyncio.CancelledError` in the step, once;
whoever is interrupted cleans up, and its cleaning up is done in further steps.

Killed is what a signal does: nothing of the process runs any more.  Python would unwind
its handlers and run their cleaning up, which a dead process does not; so from then on
every step raises again, before it has any effect.
"""

from asyncio import CancelledError

from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from savevm.qemufile.sources import Buffer, Source


class InjectedCancelError(CancelledError):
    """The cancellation of a plan, told apart from one that is meant for us."""


class InjectedKillError(BaseException):
    """The end of the process.  Nothing that the process has touched may be looked at
    afterwards, but what outlives it: its disks."""


class Steps:
    """Counts the steps of one operation, and interrupts it where its plan says so.

    Args:
        plan: its other layers are passed over.

    Attributes:
        taken: steps that were begun, those that were interrupted included.
        struck: the interruptions that have happened, in order.
        dead: the process was killed.
    """

    __slots__ = ("_pending", "dead", "struck", "taken")

    def __init__(self, plan: FaultPlan) -> None:
        self._pending = [
            fault for fault in plan.on(Layer.PROCESS) if fault.place.kind is PlaceKind.STEP
        ]
        self.taken = 0
        self.struck: list[Fault] = []
        self.dead = False

    def step(self) -> None:
        """The next step is about to be taken.

        Raises:
            InjectedCancelError: it is cancelled.
            InjectedKillError: the process is killed, or has been.
        """
        if self.dead:
            raise InjectedKillError
        number = self.taken
        self.taken += 1
        for fault in self._pending:
            if fault.place.number == number:
                self._pending.remove(fault)
                self.struck.append(fault)
                if fault.kind is FaultKind.CANCEL:
                    raise InjectedCancelError
                self.dead = True
                raise InjectedKillError


class SteppingSource:
    """A source each of whose reads is a step (:class:`savevm.qemufile.Source`).

    Args:
        source: what is read.
        steps: counts.
    """

    def __init__(self, source: Source, steps: Steps) -> None:
        self._source = source
        self._steps = steps

    def read(self, size: int) -> Buffer:
        """As the source reads.

        Raises:
            OSError: the source fails.
            InjectedCancelError, InjectedKillError: the step is interrupted.
        """
        self._steps.step()
        return self._source.read(size)

    def close(self) -> None:
        """Close the source, which is no step."""
        self._source.close()
