"""atomic: a load that fails leaves everything as it was.

Sees: any difference between the subject's digests before and after a refused
or crashed load.  Cannot see: state that the digest leaves out, or a change that
the load itself took back.
Proved by the planted bug ``ram-committed-at-end``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles.digests import differing

NAME: Final = "atomic"


def judge(trial: Trial) -> Violation | None:
    """An alarm when a failed load changed something."""
    if trial.execution.kind not in (ExitKind.REJECTED, ExitKind.CRASHED):
        return None
    before, after = trial.digest_before, trial.digest_after
    if before == after:
        return None
    changed = differing(before, after)
    what = ", ".join(changed) if any(changed) else "the state"
    refusal = trial.execution.refusal
    why = f"after it was refused with {refusal.text!r}" if refusal else "after the load crashed"
    # The first part alone: what else had been loaded by then depends on how
    # far this very input came, and would make many findings of one bug.
    return Violation(NAME, f"a failed load changed {what}", "the state before the load",
                     f"{what} changed {why}", changed[0])  # fmt: skip


ATOMIC: Final = Oracle(NAME, judge, Cost.CHEAP, "a failed load leaves everything as it was")
