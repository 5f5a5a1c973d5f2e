"""faults: what had to follow from the faults of an input did follow.

What must not matter leaves verdict and state as they are without it, and so does a
fault whose place was never reached.  What must be rejected is.  Where harm alone is
forbidden, the oracles of clean errors and of state left behind have the say.

A failure of the transport behind the EOF byte need not be noticed: QEMU's loader has its
verdict before it reads the vmdesc (``qemu_loadvm_state`` of ``migration/savevm.c``).

Sees: what its trial's faults came to.  Cannot see: faults that were not drawn.
Proved by the planted loaders of the tests that ignore errors.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.faults.kinds import Expectation, Layer
from loadfuzz.faults.plan import Fault
from loadfuzz.faults.words import describe_fault
from loadfuzz.findings import Violation
from loadfuzz.oracles.sections import eof_offset
from savevm.document import Document

NAME: Final = "faults"
_VERDICTS: Final = (ExitKind.ACCEPTED, ExitKind.REJECTED)


def judge(trial: Trial) -> Violation | None:
    """An alarm if the fault that struck had another consequence than it must have."""
    if not trial.input.faults or trial.execution.kind not in _VERDICTS:
        return None
    struck = trial.struck()
    if any(fault.expectation is Expectation.MUST_NOT_HARM for fault in struck):
        return None
    fatal = [fault for fault in struck if fault.expectation is Expectation.MUST_REJECT]
    if not fatal:
        return _compared(trial, struck)
    if trial.execution.kind is ExitKind.REJECTED:
        return None
    document = trial.document()
    for fault in fatal:
        if must_be_noticed(fault, document):
            return Violation(
                NAME, f"accepted, although {fault.kind} struck {_where(fault, document)}",
                f"a refusal: {describe_fault(fault, document)}",
                "accepted", f"{fault.kind} {_where(fault, document)}",
            )  # fmt: skip
    return None


def must_be_noticed(fault: Fault, document: Document) -> bool:
    """Whether a loader that accepts the stream must have met the fault."""
    if fault.layer is not Layer.TRANSPORT:
        return True
    end = eof_offset(document)
    return end is not None and fault.place.number <= end


def _compared(trial: Trial, struck: tuple[Fault, ...]) -> Violation | None:
    clean = trial.repeat(trial.input.stream, trial.input.delivery)
    execution = trial.execution
    text = execution.refusal.text if execution.refusal is not None else ""
    faulty = Outcome(execution.kind, text, trial.digest_after)
    if faulty == clean:
        return None
    kinds = " and ".join(sorted({str(fault.kind) for fault in struck})) or "no fault"
    differs = (
        "the verdict" if faulty.kind is not clean.kind
        else "the state" if faulty.text == clean.text else "the error"
    )  # fmt: skip
    return Violation(
        NAME, f"{differs} depends on {kinds}",
        f"as without: {_told(clean)}",
        _told(faulty), f"{kinds}: {differs}",
    )  # fmt: skip


def _told(outcome: Outcome) -> str:
    return f"{outcome.kind} {outcome.text}".strip()


def _where(fault: Fault, document: Document) -> str:
    if fault.layer is not Layer.TRANSPORT:
        return f"at {fault.place.name or fault.place.kind}"
    offset = fault.place.number
    section = document.section_at(offset)
    if any(node.start == offset for node in document.root.children):
        return "between sections"
    return "outside of the sections" if section is None else "inside a section"


FAULTS: Final = Oracle(
    NAME, judge, Cost.CHEAP, "what must follow from a fault follows, and nothing else"
)
