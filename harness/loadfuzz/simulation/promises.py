"""What a migration promises, whatever happens to it.

Each is a function of what was seen; it returns the alarm, or ``None`` when the promise was
kept or does not apply.
"""

from collections.abc import Sequence
from typing import Final

from loadfuzz.faults.wire import NS_PER_S
from loadfuzz.findings import Violation
from loadfuzz.simulation.process import Move, Process
from loadfuzz.simulation.sameness import same
from loadfuzz.simulation.scenario import NS_PER_MS, Deed
from savevm.machine import Machine, RunState
from savevm.migration import MigrationStatus
from savevm.testing.copies import migratable_differences

ONE_RUNNER: Final = "one-runner"
SAME_STATE: Final = "same-state"
UNHARMED: Final = "unharmed"
RETRY: Final = "retry"
NOTHING_LEFT: Final = "nothing-left"
DOWNTIME: Final = "downtime"
ENDS: Final = "migration-ends"

PROMISES: Final = {
    ONE_RUNNER: "never two guests run, and one does once the outcome is known on both sides",
    SAME_STATE: "what a destination has loaded is what the source stopped at",
    UNHARMED: "the guest is as if it had never been migrated",
    RETRY: "after a failure another migration over a clean wire succeeds",
    NOTHING_LEFT: "no task, handler, open end or memory of a save is left behind",
    DOWNTIME: "a migration that converged by itself stands still no longer than it may",
    ENDS: "every migration ends, on both sides",
}
"""Each promise in a line, by name."""

_SOURCE_ENDS: Final = frozenset(
    {MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED}
)
_AT_REST: Final = frozenset({MigrationStatus.DEVICE, MigrationStatus.COMPLETED})
_DESTINATION_ENDS: Final = frozenset({MigrationStatus.COMPLETED, MigrationStatus.FAILED})


def never_two(processes: Sequence[Process]) -> Violation | None:
    """At any moment: at most one guest runs."""
    running = [process.name for process in processes if process.running]
    if len(running) < 2:
        return None
    return Violation(
        ONE_RUNNER, "two guests run at once", "at most one", " and ".join(running), "two run"
    )


def nobody_too_early(move: Move) -> Violation | None:
    """At any moment: a destination runs only when it has all of the state."""
    if not move.destination.running or move.loaded:
        return None
    return Violation(
        ONE_RUNNER, "a destination runs without all of the state",
        "it runs when its load has succeeded",
        f"its load is {move.incoming.status}: {move.incoming.error}", "runs too early",
    )  # fmt: skip


def stands_still(move: Move) -> Violation | None:
    """At any moment: once the source has stopped its guest for good it stays stopped, until the
    migration has failed."""
    if not move.source.running or move.outgoing.status not in _AT_REST:
        return None
    return Violation(
        ONE_RUNNER, "the source runs again although its guest has moved, or is about to",
        "it stands still", f"it runs, and its migration is {move.outgoing.status}",
        "source runs on",
    )  # fmt: skip


def outcomes(move: Move) -> Violation | None:
    """Behind an attempt: both sides say how it ended."""
    for process, status, ends in (
        (move.source, move.outgoing.status, _SOURCE_ENDS),
        (move.destination, move.incoming.status, _DESTINATION_ENDS),
    ):
        if process.alive and status not in ends:
            side = "source" if process is move.source else "destination"
            return Violation(
                ENDS, f"the {side} has ended, and does not say how",
                " or ".join(sorted(ends)), status, f"{side} {status}",
            )  # fmt: skip
    return None


def cancelled(move: Move) -> Violation | None:
    """Behind an attempt: a cancel that was not too late is obeyed."""
    if not move.loaded or all(act.deed is not Deed.CANCEL for act in move.done) or move.tainted:
        return None
    return Violation(
        ENDS, "a migration that was cancelled goes on", "the destination never has all of it",
        f"the source is {move.outgoing.status}, the destination {move.incoming.status}",
        "cancel ignored",
    )  # fmt: skip


def same_state(move: Move) -> Violation | None:
    """Behind an attempt: the destination has what the source stopped at."""
    if not move.loaded or move.tainted:
        return None
    if move.loaded_digest == move.outgoing.stopped_digest:
        return None
    return Violation(
        SAME_STATE, "the destination has loaded another state than the source stopped at",
        f"digest {move.outgoing.stopped_digest}", f"digest {move.loaded_digest}", "digest",
    )  # fmt: skip


def refused_unchanged(move: Move, fresh: Machine) -> Violation | None:
    """Behind an attempt: a load that failed has left the destination as ``fresh`` is."""
    destination = move.destination
    if move.loaded or not destination.alive or destination.machine.profile.failed_load_keeps_state:
        return None
    if same(destination.machine, fresh):
        return None
    return Violation(
        UNHARMED, "a load that failed has changed the destination",
        "the state before the load", move.incoming.error, "destination",
    )  # fmt: skip


def one_runs(move: Move, runner: Process | None, *, wanted: bool) -> Violation | None:
    """Behind an attempt and the operator's decision: one guest runs, unless nobody wants it to
    or a kill has cost it."""
    if runner is None or not wanted or runner.running:
        return None
    side = "source" if runner is move.source else "destination"
    return Violation(
        ONE_RUNNER, "no guest runs, and the outcome is known on both sides",
        f"the {side}'s, as before: the source says {move.outgoing.status}, the destination "
        f"{move.incoming.status}",
        f"the {side} is {runner.machine.runstate}", f"none runs: {side}",
    )  # fmt: skip


def nothing_left(move: Move, tasks: Sequence[str]) -> Violation | None:
    """Behind an attempt: neither side holds anything of it any more."""
    found = [f"task {name}" for name in tasks]
    found += [f"the {end}'s end of the connection" for end in move.pipe.open_ends]
    for process in (move.source, move.destination):
        if process.alive:
            found += process.slot.left_behind()
    if not found:
        return None
    return Violation(
        NOTHING_LEFT, "an attempt that has ended leaves something behind", "nothing",
        "; ".join(found), found[0],
    )  # fmt: skip


def outlives(tasks: Sequence[str]) -> Violation:
    """Behind everything: these tasks were told to end, and would not."""
    return Violation(
        NOTHING_LEFT, "a task goes on although its process is gone", "no task",
        "; ".join(f"task {name}" for name in tasks), f"task {tasks[0]}",
    )  # fmt: skip


def downtime(move: Move, device_bytes: int) -> Violation | None:
    """Behind an attempt that converged by itself: the guest stood still as long as it may.

    Allowed are the limit itself; more of it for what the connection took in beforehand, which
    makes it look faster than it is; and the time for the devices and for what is under way,
    of which a limit on RAM knows nothing.

    Args:
        move: the attempt.
        device_bytes: what the machine's devices take in a stream at most.
    """
    attempt, link = move.attempt, move.attempt.link
    if not (move.loaded and move.sent and move.left_alone) or move.pipe.struck or move.done:
        return None
    took_ns = move.taken_over_ns - move.stopped_ns
    asked = attempt.parameters
    allowed_ns = asked.downtime_limit_ms * NS_PER_MS
    if link.bytes_per_s:
        ahead_ns = (link.capacity + link.piece) * NS_PER_S // link.bytes_per_s
        allowed_ns += allowed_ns * ahead_ns // (asked.period_ms * NS_PER_MS)
        allowed_ns += ahead_ns + device_bytes * NS_PER_S // link.bytes_per_s
    if took_ns <= allowed_ns:
        return None
    return Violation(
        DOWNTIME, "the guest stood still for longer than it may",
        f"{asked.downtime_limit_ms} ms, and {allowed_ns // NS_PER_MS} ms with the devices",
        f"{took_ns // NS_PER_MS} ms", "limit",
    )  # fmt: skip


def succeeds(move: Move) -> Violation | None:
    """Behind the last attempt, to which nothing was done."""
    if move.loaded and move.sent:
        return None
    return Violation(
        RETRY, "after a failure a migration over a clean wire fails, too", "it succeeds",
        f"the source is {move.outgoing.status} ({move.outgoing.error}), the destination "
        f"{move.incoming.status} ({move.incoming.error})",
        f"{move.outgoing.status} {move.incoming.status}",
    )  # fmt: skip


def as_its_twin(machine: Machine, twin: Machine) -> Violation | None:
    """In the end: the guest's state is that of a machine that was never migrated."""
    if same(machine, twin):
        return None
    differences = migratable_differences(twin, machine)
    place = differences[0].partition(":")[0] if differences else "state"
    return Violation(
        UNHARMED, "the guest is not as if it had never been migrated",
        "the state of a twin that ran as long", "; ".join(differences), place,
    )  # fmt: skip


def possible(machine: Machine) -> Violation | None:
    """In the end: nothing about the guest's machine is impossible."""
    faults = machine.check_invariants()
    if not faults:
        return None
    return Violation(
        UNHARMED, "the guest's machine is in an impossible state", "a possible one",
        "; ".join(faults), faults[0].partition(":")[0],
    )  # fmt: skip


def stuck(tasks: Sequence[str], *, endless: bool) -> Violation:
    """Nobody can go on, or everybody does for ever."""
    how = "goes on for ever" if endless else "waits for ever"
    return Violation(ENDS, f"a migration {how}", "an end on both sides", "; ".join(tasks), how)


def paused_as_asked(machine: Machine, *, wanted: bool) -> Violation | None:
    """In the end: a guest that was not to run does not."""
    if wanted or machine.board.runstate != RunState.RUNNING:
        return None
    return Violation(
        ONE_RUNNER, "a guest runs that was paused before", "paused", "running", "runs unasked"
    )
