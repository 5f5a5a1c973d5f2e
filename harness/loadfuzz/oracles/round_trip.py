"""round-trip: what was loaded can be saved, loaded and saved again the same.

Sees: a save that the loader refuses, one that differs the second time, state
that the first save did not carry.  Cannot see: a field that loads and saves
wrong in the same way.
Proved by the planted bug ``cpu-register-width``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Target, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles.digests import carried, differing
from loadfuzz.oracles.fields import first_changed

NAME: Final = "round-trip"


def judge(trial: Trial) -> Violation | None:
    """An alarm when an accepted state does not survive a save and a load."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    loaded = carried(trial.digest_after)
    saved = trial.saved()
    outcome, again = trial.reload(saved)
    if outcome.kind is not ExitKind.ACCEPTED:
        return Violation(
            NAME, "an accepted state saves what does not load", "what was saved loads",
            f"{outcome.kind}: {outcome.text}", _place(trial.target, saved, None),
        )  # fmt: skip
    if again != saved:
        at = first_difference(saved, again)
        return Violation(
            NAME, "saved, loaded and saved again, a state gives another stream",
            _around(saved, at), f"{_around(again, at)} at offset {at:#x}",
            _place(trial.target, saved, at),
        )  # fmt: skip
    reloaded = carried(outcome.digest)
    if reloaded != loaded:
        lost = differing(loaded, reloaded)
        what = ", ".join(lost) if any(lost) else "the state"
        return Violation(
            NAME, f"a saved stream does not carry all of {what}",
            "the state that was saved", f"after loading it {what} differs",
            first_changed(trial.document(), trial.target.parse(saved), lost[0]) or "load",
        )  # fmt: skip
    return None


def first_difference(one: bytes, other: bytes) -> int:
    """Offset of the first byte that differs; the shorter length if none does."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _place(target: Target, stream: bytes, offset: int | None) -> str:
    """Path of the node at ``offset``, or of the first problem of a stream."""
    document = target.parse(stream)
    if offset is None:
        return "/".join(document.problems[0].path) if document.problems else "load"
    for leaf in document.leaves():
        if leaf.start <= offset < leaf.end:
            return leaf.path
    return "end of stream"


def _around(stream: bytes, at: int) -> str:
    return f"{stream[at : at + 16].hex(' ') or 'nothing'}"


ROUND_TRIP: Final = Oracle(
    NAME, judge, Cost.DEAR, "an accepted state saves a stream that loads and saves the same again"
)
