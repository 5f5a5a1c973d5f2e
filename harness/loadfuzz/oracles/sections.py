"""Where a stream's sections are and where it ends, for oracles that compare."""

from savevm.commands import Command
from savevm.constants import QEMU_VM_EOF
from savevm.document import Document, NodeKind, Role, SectionNode


def sections_before_eof(document: Document) -> list[SectionNode]:
    """The sections that a loader comes to: those up to EOF, or up to bytes that mean
    nothing."""
    sections: list[SectionNode] = []
    for node in document.root.children:
        if isinstance(node, SectionNode):
            sections.append(node)
        elif node.role in (Role.SECTION_TYPE, Role.OPAQUE):
            break
    return sections


def eof_offset(document: Document) -> int | None:
    """Offset of the EOF byte; ``None`` if there is none, or something before it is
    not understood."""
    for node in document.root.children:
        if node.role is Role.SECTION_TYPE:
            return node.start if node.value == QEMU_VM_EOF else None
        if node.role is Role.OPAQUE:
            return None
    return None


def has_package(document: Document) -> bool:
    """Whether sections travel inside a command: what ends there is the package."""
    return any(
        node.kind is NodeKind.COMMAND and node.name == Command.PACKAGED.name
        for node in document.root.children
    )
