"""no-false-reject: a good stream loads.

A check too many is a bug, too: a guest that can bring about a state that no loader
takes has pinned itself to its host (QEMU f30815390a, d68cdae30e).

Sees: a refused stream in which an independent look finds nothing wrong; a stream that
the machine itself saved some guest steps after an accepted load and that is refused.
Cannot see: a false refusal of a stream with something else that is odd about it.
Proved by the planted bugs ``footer-own-id``, ``subsection-lookalike`` and
``serial-divider-zero``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.executors.guard import SubjectError
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.differential import place_of_text
from loadfuzz.oracles.invariants import STEPS
from savevm.document import Document, Role

NAME: Final = "no-false-reject"


def judge(trial: Trial) -> Violation | None:
    """An alarm when a good stream is refused."""
    execution = trial.execution
    refusal = execution.refusal
    if refusal is not None:
        if not trial.input.stream or not is_clean(trial.document()):
            return None
        return Violation(
            NAME, "a stream without a fault is refused", "it is accepted", refusal.text,
            "/".join(refusal.path) or place_of_text(refusal.text),
        )  # fmt: skip
    if execution.kind is not ExitKind.ACCEPTED:
        return None
    try:
        saved = trial.guest_run(STEPS).saved
    except SubjectError:
        return None  # invariants tells
    outcome = trial.repeat(saved, WHOLE)
    if outcome.kind is not ExitKind.REJECTED:
        return None
    return Violation(
        NAME, f"what was saved {STEPS} guest steps after an accepted load is refused",
        "it is accepted", outcome.text, place_of_text(outcome.text),
    )  # fmt: skip


def is_clean(document: Document) -> bool:
    """Whether a look finds nothing that it does not understand or would refuse."""
    return not document.problems and all(leaf.role is not Role.OPAQUE for leaf in document.leaves())


NO_FALSE_REJECT: Final = Oracle(
    NAME, judge, Cost.DEAR, "a stream without a fault, and whatever a guest's machine saves, loads"
)
