"""differential: two loaders for one format agree.

The second is the target's twin: another implementation, or another release.  The
reference is compared with itself reading every field and page one by one, past its
fast paths; your loader may be compared with the reference.

Sees: another verdict, or another state after both accepted.  Cannot see: a bug that
both have, and two refusals for different reasons.
Proved by the planted bugs ``subsection-version-cut`` and ``ram-run-past-used``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.digests import carried, differing

NAME: Final = "differential"
_VERDICTS: Final = frozenset({ExitKind.ACCEPTED, ExitKind.REJECTED})


def judge(trial: Trial) -> Violation | None:
    """An alarm when the twin comes to something else."""
    if trial.execution.kind not in _VERDICTS:
        return None
    theirs = trial.at_twin()
    if theirs is None or theirs.kind not in _VERDICTS:
        return None
    ours = trial.repeat(trial.input.stream, WHOLE)
    if ours.kind is not theirs.kind:
        place = place_of_text(ours.text or theirs.text)
        return Violation(
            NAME, f"one loader says {ours.kind}, the other {theirs.kind}", _words(theirs),
            _words(ours), place,
        )  # fmt: skip
    if ours.kind is not ExitKind.ACCEPTED or carried(ours.digest) == carried(theirs.digest):
        return None
    changed = differing(carried(theirs.digest), carried(ours.digest))
    return Violation(
        NAME, f"two loaders accept a stream and load another {changed[0]}", "the same state",
        f"another state of {', '.join(changed)}", changed[0],
    )  # fmt: skip


def place_of_text(text: str) -> str:
    """What a refusal's text says it is about.

    >>> place_of_text("cpu/exception: version 257 is too new (offset 0x10)")
    'cpu/exception'
    """
    place, colon, _ = text.partition(": ")
    return place if colon else "load"


def _words(outcome: Outcome) -> str:
    return f"{outcome.kind}: {outcome.text}" if outcome.text else str(outcome.kind)


DIFFERENTIAL: Final = Oracle(
    NAME,
    judge,
    Cost.DEAR,
    "the target's twin comes to the same verdict and the same state",
    cost_refused=Cost.DEAREST,
)
