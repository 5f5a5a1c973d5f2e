"""What a failure elsewhere is called: its oracle, its place, its title."""

from collections.abc import Sequence
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

UNKNOWN: Final = "an unknown place"
"""Place of a failure that says nothing of it and was not traced."""

NO_FILE: Final = "?:"
"""File of a frame in a binary without debug information."""

CHANGES_NAMED: Final = 3
"""Fields named in a title; the report has all."""


def violation_of(execution: Execution, cause: Cause | None, after: str | None = None) -> Violation:
    """The alarm that a failure is.

    Args:
        execution: how it ended.
        cause: what it takes, where that is known: where the loader does not say what
            failed, the field that brings it about has to name it.
        after: where it was looked for in vain, or not at all, what happened before (see
            :func:`after_changes`), "" for nothing that tells: it need not have done it, but such
            failures are told apart by it.
    """
    fields = fields_of(cause) if cause is not None else ()
    by = f", by {', '.join(fields[:CHANGES_NAMED])}" if fields else ""
    symptom = symptom_of(execution)
    place = symptom.place or (fields[0] if fields else "")
    if not place and cause is None and after is not None:
        by = f", after {after}" if after else ""
        place = f"{UNKNOWN}{by}"
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


def after_changes(paths: Sequence[str]) -> str:
    """In a word or two where changes were: in which device, if in one.

    Args:
        paths: of the changes.

    >>> after_changes(["cpu/regs[3]", "cpu/flags"])
    'cpu/…'
    """
    devices = {_device_of(without_indices(path)) for path in paths}
    if len(devices) > 1:
        return "several devices"
    return "".join(f"{device}/…" if device else "raw bytes" for device in devices) or "other loads"


def _device_of(path: str) -> str:
    """The device's name, without its place on a bus (``0000:00:03.0/``)."""
    first, _, rest = path.partition("/")
    return rest.partition("/")[0] if ":" in first and rest else first


def _said(execution: Execution) -> str:
    escape, refusal = execution.escape, execution.refusal
    if escape is not None:
        where = f" in {escape.frames[-1]}" if escape.frames else ""
        message = escape.message.removeprefix(escape.type_name).lstrip(":, ")
        return f"{escape.type_name}: {message}{where}".rstrip(": ")
    return refusal.text if refusal is not None else str(execution.kind)
