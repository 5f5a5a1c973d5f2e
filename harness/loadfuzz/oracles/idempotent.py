"""idempotent: what a load comes to depends on its stream, not on what was loaded before.

The stream is loaded into a fresh loader, once more on top of itself, and after
another, good stream; all must come to the same.

Sees: state that survives a load and decides another, what is appended instead of
replaced, what is left uninitialised.  Cannot see: what only a third kind of history
brings about, or state that a stream does not carry.
Proved by the planted bugs ``disk-completions-append``, ``sdcard-old-version`` and
``ram-stale-block``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.chunking import reason_of
from loadfuzz.oracles.digests import carried, differing

NAME: Final = "idempotent"
_KINDS: Final = frozenset({ExitKind.ACCEPTED, ExitKind.REJECTED, ExitKind.CRASHED})


def judge(trial: Trial) -> Violation | None:
    """An alarm when a history changes the outcome."""
    execution, stream = trial.execution, trial.input.stream
    if execution.kind not in _KINDS:
        return None
    fresh = trial.repeat(stream, WHOLE)
    if fresh.kind not in _KINDS:
        return None
    live = Outcome(execution.kind, "", trial.digest_after)
    if live.kind is not fresh.kind or (
        live.kind is ExitKind.ACCEPTED and carried(live.digest) != carried(fresh.digest)
    ):
        return _alarm("another load in the same process", fresh, live)
    for what, before in (("itself", stream), ("a good stream", trial.at_start())):
        outcome = trial.after((before,))
        if outcome.kind is not ExitKind.OUT_OF_MEMORY and not _same(fresh, outcome):
            return _alarm(what, fresh, outcome)
    return None


def _same(fresh: Outcome, outcome: Outcome) -> bool:
    if fresh.kind is not outcome.kind:
        return False
    if fresh.kind is ExitKind.ACCEPTED:
        return carried(fresh.digest) == carried(outcome.digest)
    return fresh.kind is ExitKind.CRASHED or fresh.text == outcome.text


def _alarm(what: str, fresh: Outcome, outcome: Outcome) -> Violation:
    if fresh.kind is outcome.kind is ExitKind.ACCEPTED:
        changed = differing(carried(fresh.digest), carried(outcome.digest))
        place = f"state/{changed[0]}"
        seen = f"another state of {', '.join(changed)}"
    else:
        place = reason_of(fresh.text or outcome.text)
        seen = f"{outcome.kind}: {outcome.text}" if outcome.text else str(outcome.kind)
    return Violation(
        NAME, f"after {what}, a stream comes to something else",
        f"{fresh.kind}: {fresh.text}" if fresh.text else f"{fresh.kind}, the same state", seen,
        place,
    )  # fmt: skip


IDEMPOTENT: Final = Oracle(
    NAME,
    judge,
    Cost.DEAR,
    "the outcome of a load does not depend on what was loaded before",
    cost_refused=Cost.DEAREST,
)
