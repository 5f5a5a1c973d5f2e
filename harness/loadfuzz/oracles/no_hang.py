"""no-hang: a load ends within its budget of CPU time.

Sees: loads that the executor had to interrupt.  Cannot see: a load that is
merely slow, or one that waits without using the processor (no source of a
trial waits).
Proved by the planted bug ``ps2-ring-walk``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles.clean_error import place_of

NAME: Final = "no-hang"


def judge(trial: Trial) -> Violation | None:
    """An alarm when the load had to be interrupted."""
    return alarm(trial.execution)


def alarm(execution: Execution) -> Violation | None:
    """The same of what a loader elsewhere did."""
    if execution.kind is not ExitKind.TIMED_OUT:
        return None
    where = place_of(execution.escape) if execution.escape is not None else ""
    title = f"the load did not end, interrupted in {where}" if where else "the load did not end"
    return Violation(
        NAME, title, "the load ends", f"interrupted after {execution.cpu_s:.1f} s of CPU time",
        where,
    )  # fmt: skip


NO_HANG: Final = Oracle(NAME, judge, Cost.CHEAP, "a load ends")
