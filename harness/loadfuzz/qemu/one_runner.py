"""The oracle of migrations: the guest runs once, never twice, and is never lost.

What follows is what plain precopy can promise.  The source hears nothing from the
destination, so each side's verdict is its own, and there are pairs of verdicts that look
wrong and are not: they are **hazards**, known by name and counted.  Whoever moves machines
has to ask both sides before one of them runs.  Source across, destination down; a manager
starts its destinations with ``-S``:

===========  =============================  ==========================  ======================
             source completed               failed, cancelled           killed by a fault
===========  =============================  ==========================  ======================
completed    the destination is told to     ``DESTINATION_DONE_FIRST``  the destination is told
             run                            the source runs on          to run
failed,      ``SOURCE_DONE_FIRST``          the source runs on          ``GUEST_KILLED``
killed       the source is told to run
===========  =============================  ==========================  ======================

- ``SOURCE_DONE_FIRST``: a source is done when its socket has taken the last byte, whether or
  not anybody reads it (``migration_completion`` in migration/migration.c).  It waits in
  ``postmigrate``, and nothing is lost as long as it can be told to run.
- ``DESTINATION_DONE_FIRST``: a destination is done at ``QEMU_VM_EOF``; the vmdesc behind it
  may be cut off (``qemu_loadvm_state`` in migration/savevm.c).  A source that fails, or is
  cancelled, after that runs on.  With ``-S`` the destination does nothing; without, both run:
  ``BOTH_RAN``, which is why a manager uses ``-S``.
- ``GUEST_KILLED``: the fault has killed the only one who had the guest.
- ``DAMAGE_UNNOTICED``: bits were flipped, pieces repeated or swapped, and both are content: a
  stream has no checksum.  A zero where a section should begin even ends it, ``DAMAGE_ENDED``.
- ``CANCEL_TOO_LATE``: the source was told to cancel when it was done already.  QEMU says
  success to that, too, and does nothing (``migrate_fd_cancel`` in migration/migration.c).
- ``NOT_CONVERGED``: the guest changes its memory faster than that passes; we closed the
  connection (:data:`~loadfuzz.qemu.proxy.PASSING_MAX_S`).

Of an attempt in which a side ended for want of memory nothing is said at all: that is the
machine under us.

Everything else that breaks the promises of :data:`PROMISES` is a violation.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from loadfuzz.execution import Depth, Execution, ExitKind, Refusal
from loadfuzz.faults.kinds import CHANGES_BYTES, Expectation, FaultKind
from loadfuzz.faults.plan import FaultPlan
from loadfuzz.findings import Violation
from loadfuzz.qemu.migration import Attempt, Outcome, Side
from loadfuzz.qemu.peers import Role
from loadfuzz.qemu.proxy import Ended, strikes_source

ONE_RUNNER: Final = "one-runner"
CLEAN_ERROR: Final = "clean-error"
NO_HANG: Final = "no-hang"
TRUNCATION: Final = "truncation"
MUST_NOT_MATTER: Final = "must-not-matter"
RETRY: Final = "retry"
CANCEL: Final = "cancel"

PROMISES: Final = (
    (ONE_RUNNER, "the guest runs on one side; on none only where a fault killed it"),
    (CLEAN_ERROR, "no QEMU dies, but a destination that refuses its stream"),
    (NO_HANG, "both sides come to a verdict once the connection is closed"),
    (TRUNCATION, "a destination completes only with the whole state"),
    (MUST_NOT_MATTER, "silence below the deadline and small pieces change nothing"),
    (CANCEL, "a cancel is accepted before the migration is over, and then ends it"),
    (RETRY, "after a failure the source migrates again, and completes"),
)
"""What is promised, by oracle."""


class Hazard(StrEnum):
    """What looks wrong and is known, see the head of this module."""

    SOURCE_DONE_FIRST = "source-done-first"
    DESTINATION_DONE_FIRST = "destination-done-first"
    BOTH_RAN = "both-ran"
    GUEST_KILLED = "guest-killed"
    DAMAGE_UNNOTICED = "damage-unnoticed"
    DAMAGE_ENDED = "damage-ended"
    CANCEL_TOO_LATE = "cancel-too-late"
    NOT_CONVERGED = "not-converged"


MEANINGS: Final[Mapping[Hazard, str]] = {
    Hazard.SOURCE_DONE_FIRST: "the source was done, the destination was not",
    Hazard.DESTINATION_DONE_FIRST: "the destination was done, the source ran on",
    Hazard.BOTH_RAN: "both ran for a while: there was no -S",
    Hazard.GUEST_KILLED: "the only one who had the guest was killed",
    Hazard.DAMAGE_UNNOTICED: "what was changed under way was loaded",
    Hazard.DAMAGE_ENDED: "what was changed ended the stream too early",
    Hazard.CANCEL_TOO_LATE: "the source was told to cancel when it was done",
    Hazard.NOT_CONVERGED: "the source always had more to send; we closed the connection",
}
"""The same in a few words."""


def hazard_of(attempt: Attempt) -> Hazard | None:
    """The known hazard that a migration has shown, if it has."""
    if attempt.lacks_memory:
        return None
    return _hazard_of_pair(attempt) or _hazard_of_course(attempt)


def _hazard_of_pair(attempt: Attempt) -> Hazard | None:
    """What the two verdicts show together."""
    left, arrived = attempt.source.outcome, attempt.destination.outcome
    if attempt.source.runs and attempt.destination.runs:
        return Hazard.BOTH_RAN if _excuses_both(attempt) else None
    damaged = _is_damaged(attempt)
    if arrived is Outcome.COMPLETED:
        if damaged and not attempt.passed.whole_state:
            return Hazard.DAMAGE_ENDED
        if left in _RUNS_ON:
            return Hazard.DESTINATION_DONE_FIRST
        return Hazard.DAMAGE_UNNOTICED if damaged else None
    if left is Outcome.COMPLETED:
        return Hazard.SOURCE_DONE_FIRST
    return Hazard.GUEST_KILLED if left is Outcome.KILLED else None


def _hazard_of_course(attempt: Attempt) -> Hazard | None:
    """What else went as it should not, where the verdicts show nothing."""
    if attempt.passed.ended is Ended.ENDLESS:
        return Hazard.NOT_CONVERGED
    if any(cancel.late for cancel in attempt.cancels):
        return Hazard.CANCEL_TOO_LATE
    return None


def judge(attempt: Attempt) -> tuple[Violation, ...]:
    """Every promise that a migration has broken, the gravest first; none where a side ended
    for want of memory."""
    if attempt.lacks_memory:
        return ()
    return (
        *_lost_or_doubled(attempt),
        *_ran_untold(attempt),
        *_bad_ends(attempt),
        *_cancelled_for_nothing(attempt),
        *_incomplete(attempt),
        *_mattered(attempt),
    )


def judge_retry(first: Attempt, again: Attempt) -> tuple[Violation, ...]:
    """Promises broken by a migration without faults that followed a failed one."""
    broken = judge(again)
    if broken or _both_completed(again) or _has_no_answer(again):
        return broken
    return (
        Violation(
            RETRY,
            "after a failed migration the source does not migrate any more",
            "a migration without faults completes on both sides",
            f"after [{first.plan}]: {_pair(again)}",
            f"{again.source.outcome}/{again.destination.outcome}",
        ),
    )


def execution_of(attempt: Attempt) -> Execution:
    """What the destination did, for a finding."""
    side = attempt.destination
    if attempt.source.execution is not None:
        return attempt.source.execution
    if side.execution is not None:
        return side.execution
    if side.outcome is Outcome.COMPLETED:
        return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)
    refusal = Refusal(f"{side.outcome}: {side.said}", 5, None, ())
    return Execution(ExitKind.REJECTED, Depth.NOTHING, refusal=refusal)


_RUNS_ON: Final = frozenset({Outcome.FAILED, Outcome.CANCELLED})


def _lost_or_doubled(attempt: Attempt) -> Iterator[Violation]:
    before = attempt.source.runs and attempt.destination.runs
    if before and not _excuses_both(attempt):
        yield _one_runner(attempt, "both run, and nobody told them", "both-ran")
    running = attempt.settled.running
    if len(running) > 1:
        yield _one_runner(attempt, "both run when the operator is done", "both-run")
    if not running and not _is_killed(attempt):
        yield _one_runner(attempt, "none runs when the operator is done", "lost")


def _ran_untold(attempt: Attempt) -> Iterator[Violation]:
    left, arrived = attempt.source, attempt.destination
    if arrived.runs and not attempt.autostart:
        yield _one_runner(attempt, "the destination runs before it was told", "untold")
    if arrived.runs and arrived.outcome is not Outcome.COMPLETED:
        yield _one_runner(attempt, "the destination runs what it has refused", "refused-runs")
    if left.outcome in _RUNS_ON and not left.runs:
        yield _one_runner(attempt, f"the source does not run on: {left.state}", "source-stands")
    if left.outcome is Outcome.COMPLETED and left.runs:
        yield _one_runner(attempt, "the source runs on after it has completed", "source-runs")


def _bad_ends(attempt: Attempt) -> Iterator[Violation]:
    sides = ((Role.SOURCE, attempt.source), (Role.DESTINATION, attempt.destination))
    for role, side in sides:
        if side.outcome is Outcome.DIED:
            yield Violation(
                CLEAN_ERROR,
                f"the {role} died: {_words(side)}",
                "an error, and a process that ends as it says or lives on",
                side.said or _words(side),
                f"{role}: {_words(side)}",
            )
        if side.outcome is Outcome.HANGS:
            yield Violation(
                NO_HANG,
                f"the {role} comes to no verdict",
                "a verdict soon after the connection was closed",
                f"{_words(side)} {' '.join(_frames(side))}".strip(),
                f"{role}: {' '.join(_frames(side))}",
            )
    if attempt.passed.ended is Ended.SILENT:
        yield Violation(
            NO_HANG,
            "the migration stands still",
            "the source sends and the destination reads, or they close",
            f"{attempt.passed.sent} bytes sent, {attempt.passed.delivered} read; {_pair(attempt)}",
            "silent",
        )


def _cancelled_for_nothing(attempt: Attempt) -> Iterator[Violation]:
    for cancel in attempt.cancels:
        if cancel.ignored:
            yield Violation(
                CANCEL,
                "a migration that is told to cancel goes on",
                "it is cancelling, or was over before",
                f"behind [{cancel.fault}]: {cancel.error or cancel.state or 'no state'}; "
                f"{_pair(attempt)}",
                "ignored",
            )
        elif cancel.accepted and attempt.source.outcome is Outcome.COMPLETED:
            yield Violation(
                CANCEL,
                "a migration that was cancelled completes",
                "the source ends as cancelled or failed",
                f"{cancel.state} behind [{cancel.fault}]; {_pair(attempt)}",
                "completed",
            )


def _incomplete(attempt: Attempt) -> Iterator[Violation]:
    done = attempt.destination.outcome is Outcome.COMPLETED
    if done and not attempt.passed.whole_state and not _is_damaged(attempt):
        yield Violation(
            TRUNCATION,
            "the destination completes with a part of the state",
            f"a refusal: the state ends behind byte {attempt.passed.state_end or 'unknown'}",
            f"{attempt.passed.delivered} bytes were enough",
            "incomplete",
        )


def _mattered(attempt: Attempt) -> Iterator[Violation]:
    # By what did happen: a fault beyond the stream's end is none.
    expected = FaultPlan(attempt.struck).expectation
    if expected is not Expectation.MUST_NOT_MATTER or _both_completed(attempt):
        return
    if attempt.passed.ended is Ended.ENDLESS:
        return
    yield Violation(
        MUST_NOT_MATTER,
        "a migration fails over nothing",
        "both sides complete",
        f"[{' '.join(map(str, attempt.struck))}]: {_pair(attempt)}",
        f"{attempt.source.outcome}/{attempt.destination.outcome}",
    )


# -- what is known of an attempt ------------------------------------------------------------------


def _excuses_both(attempt: Attempt) -> bool:
    """Whether both may run for a while: a destination that starts by itself has the whole state,
    or believes so, and the source has heard of a failure."""
    return (
        attempt.autostart
        and attempt.source.outcome in _RUNS_ON
        and (attempt.passed.whole_state or _is_damaged(attempt))
    )


def _is_damaged(attempt: Attempt) -> bool:
    return any(fault.kind in CHANGES_BYTES for fault in attempt.struck)


def _has_no_answer(attempt: Attempt) -> bool:
    """Whether it came to its end for a reason that is none of QEMU's."""
    return attempt.lacks_memory or attempt.passed.ended is Ended.ENDLESS


def _is_killed(attempt: Attempt) -> bool:
    """Whether a fault has killed the last one that had the guest."""
    kills = [fault for fault in attempt.struck if fault.kind is FaultKind.KILL]
    source = any(strikes_source(fault) for fault in kills)
    destination = any(not strikes_source(fault) for fault in kills)
    return source and (destination or attempt.destination.outcome is not Outcome.COMPLETED)


def _both_completed(attempt: Attempt) -> bool:
    sides = (attempt.source, attempt.destination)
    return all(side.outcome is Outcome.COMPLETED for side in sides)


def _one_runner(attempt: Attempt, title: str, path: str) -> Violation:
    settled = attempt.settled
    told = ", ".join(settled.told) or "nobody"
    after = f"told to run: {told}; then source {settled.source or 'gone'}, destination "
    after += settled.destination or "gone"
    actual = "; ".join(filter(None, (_pair(attempt), after, settled.said)))
    return Violation(ONE_RUNNER, title, "the guest runs on exactly one side", actual, path)


def _pair(attempt: Attempt) -> str:
    left, arrived = attempt.source, attempt.destination
    text = f"source {left.outcome} ({left.state or 'gone'}), "
    text += f"destination {arrived.outcome} ({arrived.state or 'gone'})"
    said = "; ".join(filter(None, (left.said, arrived.said)))
    return f"{text}: {said}" if said else text


def _words(side: Side) -> str:
    escape = None if side.execution is None else side.execution.escape
    return "" if escape is None else f"{escape.type_name} {escape.message}".strip()


def _frames(side: Side) -> tuple[str, ...]:
    escape = None if side.execution is None else side.execution.escape
    return () if escape is None else escape.frames[-1:]
