"""One migration between two real QEMUs that a plan of faults strikes, and what came of it.

Theory of operation.  The source runs its guest; the destination was started with ``-incoming
defer`` and waits.  Plain precopy: what is sent goes one way, so neither side hears from the
other, and each comes to a verdict of its own.  When the proxy between them has nothing more
to pass, both are asked for it, and whether they run.  Then an operator does what a manager of
virtual machines would: it looks at both verdicts, has one of the two run, and ends a
destination that is not to.  What is to be thought of it all is said in :mod:`.one_runner`.

What QEMU does, by 7.2: ``process_incoming_migration_bh`` and ``migration_iteration_finish``
in migration/migration.c; a source whose migration fails or is cancelled runs on by itself, a
destination whose load fails exits.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.faults.kinds import FaultKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.qemu.asking import FailedError, Watch, judge_ending, judge_failure
from loadfuzz.qemu.cancelling import Cancel, Canceller
from loadfuzz.qemu.closer import status_of
from loadfuzz.qemu.incoming_verdicts import judge_end
from loadfuzz.qemu.listener import progress_of, reason_of
from loadfuzz.qemu.monitor import Reply, encode
from loadfuzz.qemu.pace import FLOOR_S
from loadfuzz.qemu.peers import Peer, Role
from loadfuzz.qemu.process import REAP_DEADLINE_S, Ending
from loadfuzz.qemu.proxy import Passed, Proxy, strikes_source

OUTCOME_S: Final = 3.0
"""CPU seconds that a QEMU has for its verdict once nothing passes any more; a source's guest
uses some of them, and a verdict takes milliseconds."""
SETTLE_S: Final = 2.0
"""Seconds between a verdict and the run state that follows from it: QEMU says the one before
it has done the other."""
GUEST_RUN_S: Final = 0.005
"""How long the guest runs before it is asked whether it still does."""
SAID_MAX: Final = 2000
"""Characters kept of what a QEMU printed."""
_PAUSE_MIN_S: Final = 0.0005
_PAUSE_MAX_S: Final = 0.02
"""Between two questions, growing from the one to the other."""

_QUERY: Final = encode("query-migrate")
_STATUS: Final = encode("query-status")
_CONT: Final = encode("cont")
RUNNING: Final = "running"


class Outcome(StrEnum):
    """What a side made of a migration."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    KILLED = "killed"
    """A fault has ended its process."""
    DIED = "died"
    """Its process has ended by itself, and not over a stream that it refused."""
    NO_MEMORY = "out-of-memory"
    HANGS = "hangs"
    """It comes to no verdict."""


_TERMINAL: Final = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED})
_OF_END: Final = {
    ExitKind.REJECTED: Outcome.FAILED,
    ExitKind.CRASHED: Outcome.DIED,
    ExitKind.TIMED_OUT: Outcome.HANGS,
    ExitKind.OUT_OF_MEMORY: Outcome.NO_MEMORY,
}


@dataclass(frozen=True, slots=True)
class Side:
    """One side when a migration is over.

    Attributes:
        outcome: its verdict.
        state: its run state, as ``query-status`` has it; "" for one whose process has ended.
        said: what it printed, and its reason.
        execution: of one that ended or hangs.
    """

    outcome: Outcome
    state: str = ""
    said: str = ""
    execution: Execution | None = None

    @property
    def runs(self) -> bool:
        """Whether its guest runs."""
        return self.state == RUNNING


@dataclass(frozen=True, slots=True)
class Settled:
    """What an operator has made of it.

    Attributes:
        told: who was told to run, in order.
        source, destination: run states afterwards; "" for one that is gone.
        said: why one did not that was told to.
    """

    told: tuple[Role, ...]
    source: str
    destination: str
    said: str = ""

    @property
    def running(self) -> tuple[Role, ...]:
        """Whose guest runs."""
        pairs = ((Role.SOURCE, self.source), (Role.DESTINATION, self.destination))
        return tuple(role for role, state in pairs if state == RUNNING)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A migration and what came of it.

    Attributes:
        plan: what was to go wrong.
        autostart: the destination was to run by itself.
        passed: what went over the wire, and what did go wrong.
        stream: what the source sent, as far as that is kept.
        source, destination: when both had a verdict.
        settled: when the operator was done.
        cancels: those that the source was told, has heard and answered.
    """

    plan: FaultPlan
    autostart: bool
    passed: Passed
    stream: bytes
    source: Side
    destination: Side
    settled: Settled
    cancels: tuple[Cancel, ...] = ()

    @property
    def struck(self) -> tuple[Fault, ...]:
        """What did go wrong; a cancel only if the source has accepted it."""
        accepted = (cancel.fault for cancel in self.cancels if cancel.accepted)
        return (*self.passed.struck, *accepted)

    @property
    def lacks_memory(self) -> bool:
        """Whether a side ended for want of memory: then nothing can be said of the rest."""
        return Outcome.NO_MEMORY in (self.source.outcome, self.destination.outcome)


Heard = Callable[[Sequence[Reply]], None]
"""Gets the answers that a side still owed, fewer if its process has ended."""
Operator = Callable[[Side, Side], Sequence[Role]]
"""Looks at source and destination, and says whom to have run: the one that is to, as a rule."""


def careful(source: Side, destination: Side) -> Sequence[Role]:
    """As a manager of virtual machines decides: the guest goes over only if the destination has
    all of it and the source does not run any more."""
    if destination.outcome is Outcome.COMPLETED and source.outcome not in _RUN_ON:
        return (Role.DESTINATION,)
    return (Role.SOURCE,)


_RUN_ON: Final = frozenset({Outcome.FAILED, Outcome.CANCELLED})
"""After these a source runs on by itself."""


async def migrate(
    source: Peer,
    destination: Peer,
    plan: FaultPlan,
    *,
    operator: Operator = careful,
    autostart: bool = False,
) -> Attempt:
    """Migrate once.

    Afterwards the source is as it is, alive or not; the destination is good for nothing more.
    Cancellation leaves both to be ended by whoever has them.

    Args:
        source: runs its guest.
        destination: waits.
        plan: what goes wrong; faults of disks and devices are passed over.
        operator: decides who is to run.
        autostart: the destination was started so.

    Raises:
        InfraError: a QEMU was ended from outside, or cannot be spoken to.
    """

    canceller = Canceller(source)

    async def at_step(fault: Fault) -> bool:
        if fault.kind is FaultKind.CANCEL:
            await canceller.tell(fault)
            return False  # whether it took effect may turn out later
        return await _slay(source if strikes_source(fault) else destination)

    incoming = destination.incoming()
    try:
        outgoing = await source.outgoing()
    except FailedError as error:
        incoming.close()
        raise InfraError("the source died or hangs before it migrated; use another one") from error
    except BaseException:
        incoming.close()
        raise
    proxy = Proxy(outgoing, incoming, plan, at_step)
    passed = await proxy.run()
    arrived = await verdict_of(destination, autostart=autostart)
    left = await verdict_of(source, heard=canceller.hear)
    # The destination is asked first and once more: if it runs, and the source does when it is
    # asked behind that, both do.
    arrived = await _refreshed(destination, arrived)
    left = await _refreshed(source, left)
    settled = await _operate(source, destination, tuple(operator(left, arrived)))
    return Attempt(
        plan, autostart, passed, proxy.watch.recorded(), left, arrived, settled,
        tuple(canceller.heard),
    )  # fmt: skip


async def verdict_of(peer: Peer, *, autostart: bool = False, heard: Heard | None = None) -> Side:
    """Wait until a side has a verdict, and for what follows from it.

    Args:
        peer: the side.
        autostart: it was started so.
        heard: gets the answers that it still owed.

    Raises:
        InfraError: it was ended from outside, or cannot be spoken to.
    """
    if peer.killed:
        return Side(Outcome.KILLED)
    cpu_before_s = peer.clock.now_s()
    watch = Watch(peer, "", OUTCOME_S, FLOOR_S)
    pause_s = _PAUSE_MIN_S
    settled_s: float | None = None
    try:
        owed = await watch.answers(peer.owed)
        peer.owed = 0
        if heard is not None:
            heard(owed)
        while True:  # until there is a verdict that has settled, or as long as Watch lets it
            peer.monitor.send(_QUERY, _STATUS)
            progress, status = await watch.answers(2)
            word, state = progress_of(progress), status_of(status)
            if word in _TERMINAL:
                if settled_s is None:
                    settled_s = watch.waited_s
                side = Side(Outcome(word), state, reason_of(progress))
                late = watch.waited_s - settled_s >= SETTLE_S
                if late or state in _expected(peer.role, side.outcome, autostart=autostart):
                    return side
            else:
                watch.look_between()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
    except FailedError as failed:
        return await _ended(peer, failed, cpu_before_s)


def _expected(role: Role, outcome: Outcome, *, autostart: bool) -> frozenset[str]:
    """Run states that follow from a verdict."""
    if role is Role.SOURCE:
        return frozenset({"postmigrate"} if outcome is Outcome.COMPLETED else {RUNNING})
    if outcome is Outcome.COMPLETED:
        return frozenset({RUNNING if autostart else "paused"})
    return frozenset()  # it ends


async def _ended(peer: Peer, failed: FailedError, cpu_before_s: float) -> Side:
    judge = judge_end if peer.role is Role.DESTINATION else judge_ending
    said: list[str] = []

    def judged(ending: Ending, doing: str) -> Execution:
        said.append(ending.said)
        return judge(ending, doing)

    execution = await judge_failure(peer, failed, cpu_before_s, judge=judged)
    return Side(_OF_END[execution.kind], "", "".join(said)[-SAID_MAX:].strip(), execution)


async def _refreshed(peer: Peer, side: Side) -> Side:
    """The same with the run state of now."""
    if not side.state:
        return side
    try:
        answers = await peer.ask(_STATUS)
    except FailedError as failed:
        return await _ended(peer, failed, peer.clock.now_s())
    return replace(side, state=status_of(answers[0]))


# -- what is done to them ----------------------------------------------------------------------


async def _slay(peer: Peer) -> bool:
    """Kill it; False if it had ended by itself, so that its end is still its own.

    Raises:
        InfraError: it does not die.
    """
    peer.process.kill()
    code = await peer.process.wait(REAP_DEADLINE_S)
    if code is None:
        raise InfraError(
            f"the {peer.role} cannot be killed; it hangs in the kernel, probably on a dead disk "
            "or network file system"
        )
    if code != -signal.SIGKILL:
        return False
    peer.killed = True
    return True


async def _operate(source: Peer, destination: Peer, told: tuple[Role, ...]) -> Settled:
    """Have those run who are told to, and end a destination that is not."""
    said = ""
    if Role.DESTINATION not in told:
        await _slay(destination)
    else:
        said = await _run(destination)
        if said and Role.SOURCE not in told:
            # As a manager does: nothing is lost as long as the source is there.
            await _slay(destination)
            told = (*told, Role.SOURCE)
    if Role.SOURCE in told:
        more = await _run(source)
        said = "; ".join(filter(None, (said, more)))
    await asyncio.sleep(GUEST_RUN_S)
    arrived = await _state(destination)
    return Settled(told, await _state(source), arrived, said)


async def _run(peer: Peer) -> str:
    """Have a guest run; why it does not, "" if it does."""
    if peer.killed:
        return f"the {peer.role} was killed"
    cpu_before_s = peer.clock.now_s()
    try:
        started, status = await peer.ask(_CONT, _STATUS)
    except FailedError as failed:
        side = await _ended(peer, failed, cpu_before_s)
        if side.outcome is Outcome.NO_MEMORY:
            raise InfraError(
                f"the {peer.role} ended over cont for want of memory; make room, or use less"
            ) from failed
        return f"the {peer.role} {'hangs' if failed.seen else 'died'} over cont"
    if started.error:
        return f"the {peer.role} refuses to run: {started.error}"
    state = status_of(status)
    return "" if state == RUNNING else f"the {peer.role} is {state} after cont"


async def _state(peer: Peer) -> str:
    if peer.killed:
        return ""
    try:
        return status_of((await peer.ask(_STATUS))[0])
    except FailedError as failed:
        return "hangs" if failed.seen else ""
