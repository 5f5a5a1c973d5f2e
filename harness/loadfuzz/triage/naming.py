"""What a failure elsewhere is called: its oracle, its place, its title."""

from typing import Final

from loadfuzz.execution import Execution, ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles import clean_error, idempotent, no_hang
from loadfuzz.oracles.clean_error import place_of
from loadfuzz.places import without_indices
from loadfuzz.triage.sequences import Cause
from loadfuzz.triage.symptom import symptom_of

NOWHERE: Final = " at "
"""End of the path of a failure that says nothing of its place."""

NO_FILE: Final = "?:"
"""File of a frame in a binary without debug information."""

CHANGES_NAMED: Final = 3
"""Fields named in a title; the report has all."""


def violation_of(execution: Execution, cause: Cause | None) -> Violation:
    """The alarm that a failure is.

    Args:
        execution: how it ended.
        cause: what it takes, where that is known: where the loader does not say what
            failed, the field that brings it about has to name it.
    """
    fields = fields_of(cause) if cause is not None else ()
    by = f", by {', '.join(fields[:CHANGES_NAMED])}" if fields else ""
    symptom = symptom_of(execution)
    place = symptom.place or (fields[0] if fields else "")
    what = f"{symptom.type_name} {symptom.doing}".rstrip()
    if execution.kind is ExitKind.TIMED_OUT:
        escape = execution.escape
        if escape is not None and escape.frames and not place_of(escape).startswith(NO_FILE):
            # The calls that never returned say more than the field that sent it there; but in a
            # binary without debug information only some have names, and which is chance.
            place = place_of(escape)
        title = f"the load does not end{by}"
        return Violation(no_hang.NAME, title, "the load ends", _said(execution),
                         f"{what}{NOWHERE}{place}")  # fmt: skip
    if execution.kind is ExitKind.CRASHED:
        title = f"{_said(execution)}{by}"
        return Violation(clean_error.NAME, title, "the stream is accepted or refused",
                         _said(execution), f"{what}{NOWHERE}{place}")  # fmt: skip
    return Violation(
        idempotent.NAME, f"a good stream is refused after other loads{by}",
        "what a load comes to depends on its stream alone", _said(execution),
        f"refused/{place}",
    )  # fmt: skip


def fields_of(cause: Cause) -> tuple[str, ...]:
    """Paths of what a cause takes, without indices, each once."""
    found: dict[str, None] = {}
    for step in cause.steps:
        for change in reversed(step.changes):
            found.setdefault(without_indices(change.path) or "raw bytes")
    return tuple(found)


def _said(execution: Execution) -> str:
    escape, refusal = execution.escape, execution.refusal
    if escape is not None:
        where = f" in {escape.frames[-1]}" if escape.frames else ""
        message = escape.message.removeprefix(escape.type_name).lstrip(":, ")
        return f"{escape.type_name}: {message}{where}".rstrip(": ")
    return refusal.text if refusal is not None else str(execution.kind)
