"""clean-error: whatever the stream, a load succeeds or raises LoadError.

Sees: every exception of another class, a signal.  Cannot see: damage that raises
nothing (see no-leak and invariants), or a LoadError raised for the wrong reason; what
runs out of memory is bounded-memory's.
Proved by the planted bug ``cpu-vector-unchecked``.
"""

from collections import Counter
from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import Escape, Execution, ExitKind
from loadfuzz.findings import Violation

NAME: Final = "clean-error"
_RECURSION: Final = "RecursionError"


def judge(trial: Trial) -> Violation | None:
    """An alarm when anything but a LoadError left the load."""
    return alarm(trial.execution)


def alarm(execution: Execution) -> Violation | None:
    """The same of what a loader elsewhere did."""
    if execution.kind is ExitKind.CRASHED:
        escape = execution.escape
        if escape is None:
            return _alarm("the loader died", "it died and left no trace", "")
        said = f"{escape.type_name}: {escape.message}"
        where = place_of(escape)
        return _alarm(f"{said} left the load at {where}", _with_frames(said, escape),
                      f"{escape.type_name} at {where}")  # fmt: skip
    return None


def place_of(escape: Escape) -> str:
    """``file.py:function`` where it happened; no line, so that an edit above it
    does not make it another finding.

    The depth at which a recursion gives up is chance: there it is the function
    that is on the stack most often.
    """
    places = [":".join(frame.split(":")[:2]) for frame in escape.frames]
    if not places:
        return "unknown"
    if escape.type_name == _RECURSION:
        return Counter(places).most_common(1)[0][0]
    return places[-1]


def _with_frames(said: str, escape: Escape) -> str:
    return " < ".join((said, *reversed(escape.frames)))


def _alarm(title: str, actual: str, path: str) -> Violation:
    return Violation(NAME, title, "the stream is accepted, or refused with a LoadError", actual,
                     path)  # fmt: skip


CLEAN_ERROR: Final = Oracle(NAME, judge, Cost.CHEAP, "nothing but a LoadError leaves a load")
