"""footer: a section whose footer is missing or names another section is refused.

Sees: an accepted stream in which an independent look, the recording load of
:meth:`~loadfuzz.abc.Target.parse`, finds such a footer.  Cannot see: footers
behind a place where that look lost its footing, or a loader that refuses a
good footer.
Proved by the planted bug ``live-footer-unchecked``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from savevm.constants import QEMU_VM_SECTION_FOOTER
from savevm.document import Document, Role, SectionNode

NAME: Final = "footer"


def judge(trial: Trial) -> Violation | None:
    """An alarm for the first section that should have been refused."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    document = trial.document()
    known_until = _footing_lost_at(document)
    for section in document.sections:
        if section.end > known_until:
            break
        fault = fault_of(section)
        if fault:
            return Violation(
                NAME,
                f"a {section.type_label} section of {section.idstr!r} was accepted: {fault}",
                f"a footer for section id {section.section_id:#x}, or a refusal",
                f"{fault} (section at offset {section.start:#x})",
                f"{section.idstr}/{section.type_label}",
            )
    return None


def fault_of(section: SectionNode) -> str:
    """What is wrong with the footer of a section, ``""`` when nothing is."""
    footer = section.footer
    if footer is None:
        return "it has no footer"
    for leaf in footer.leaves():
        if leaf.role is Role.FOOTER_MARK and leaf.value != QEMU_VM_SECTION_FOOTER:
            return f"its footer is marked {leaf.value!r}"
        if leaf.role is Role.FOOTER_ID and leaf.value != section.section_id:
            return f"its footer is for section id {leaf.value!r}"
    return ""


def _footing_lost_at(document: Document) -> int:
    """Offset behind the section in which the look could not understand a byte:
    what follows is a guess, no ground for an alarm."""
    for leaf in document.leaves(role=Role.OPAQUE):
        return leaf.end
    return len(document.to_bytes()) + 1


FOOTER: Final = Oracle(
    NAME, judge, Cost.DEAR, "a section without a good footer of its own is refused"
)
