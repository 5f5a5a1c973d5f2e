"""promises: what a target promises beyond a load is kept.

A simulated migration, say, promises that never two machines run; it is its subject that
sees that, and names the promise that was broken as the alarm's oracle.

Sees: what the subject tells (:class:`loadfuzz.abc.TellsViolations`).
Proved by the planted bugs of the target ``migration``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.findings import Violation

NAME: Final = "promises"


def judge(trial: Trial) -> Violation | None:
    """The first promise that the subject says was broken."""
    told = trial.violations()
    return told[0] if told else None


PROMISES: Final = Oracle(NAME, judge, Cost.CHEAP, "what a target promises beyond a load is kept")
