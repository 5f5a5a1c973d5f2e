"""footer: a section whose footer is missing or names another section is refused.

Sees: an accepted stream in which an independent look, the recording load of
:meth:`~loadfuzz.abc.Target.parse`, finds such a footer.  Cannot see: footers
behind a place where that look lost its footing, or a loader that refuses a
good footer.
Proved by the planted bug ``footer-id-ignored``.
"""

from itertools import pairwise
from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from savevm.constants import QEMU_VM_SECTION_FOOTER
from savevm.document import Role, SectionNode

NAME: Final = "footer"


def judge(trial: Trial) -> Violation | None:
    """An alarm for the first section that should have been refused."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    for node in trial.document().root.children:
        if isinstance(node, SectionNode):
            fault = fault_of(node)
            if fault:
                return _alarm(node, fault)
            if not understood(node):
                break
        elif node.role in (Role.SECTION_TYPE, Role.OPAQUE):
            # EOF, or bytes that mean nothing.  The look goes on behind both; a
            # loader does not, and what was found there is a guess.
            break
    return None


def fault_of(section: SectionNode) -> str:
    """What is wrong with the footer of a section, ``""`` when nothing is or
    when its payload was not understood, so that nobody knows where a footer
    should be."""
    leaves = list(section.leaves())
    for before, leaf in pairwise(leaves):
        if leaf.role is Role.OPAQUE and before.role is not Role.FOOTER_MARK:
            return ""
    for leaf in leaves:
        if leaf.role is Role.FOOTER_MARK and leaf.value != QEMU_VM_SECTION_FOOTER:
            return f"its footer is marked {leaf.value!r}"
        if leaf.role is Role.FOOTER_ID and leaf.value != section.section_id:
            return f"its footer is for section id {leaf.value!r}"
    return "" if section.footer is not None else "it has no footer"


def understood(section: SectionNode) -> bool:
    """Whether every byte of a section has a meaning."""
    return all(leaf.role is not Role.OPAQUE for leaf in section.leaves())


def _alarm(section: SectionNode, fault: str) -> Violation:
    return Violation(
        NAME,
        f"a {section.type_label} section of {section.idstr!r} was accepted: {fault}",
        f"a footer for section id {section.section_id:#x}, or a refusal",
        f"{fault} (section at offset {section.start:#x})",
        # Not the device: a check that is missing is missing for all of a kind.
        "FULL" if section.type_label == "FULL" else "live",
    )


FOOTER: Final = Oracle(
    NAME, judge, Cost.DEAR, "a section without a good footer of its own is refused"
)
