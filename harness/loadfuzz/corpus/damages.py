"""Streams that a loader must refuse, or must not: each a seed with one edit.

The table says what has to be answered; :mod:`loadfuzz.corpus.making` makes the
streams and refuses to write them if the loader at hand answers anything else.
Most rows are edits that a stock QEMU was given too; where it is more lenient,
the row says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EIO, ENOTSUP
from typing import Final

from loadfuzz.execution import ExitKind
from savevm.constants import QEMU_VM_SECTION_PART, QEMU_VM_SECTION_START
from savevm.document import Consistency, Document, SectionNode, Value

Change = Callable[[Document], bytes]
"""Makes the damaged stream out of a good one."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One edit and what a good loader answers to it.

    Attributes:
        name: unique; the file's name.
        seed: name of the seed that is edited.
        change: the edit.
        errno: positive errno of the refusal, 0 where it must be accepted.
        path: where the refusal lies.
        why: what the row shows.
    """

    name: str
    seed: str
    change: Change
    errno: int
    path: tuple[str, ...]
    why: str

    @property
    def verdict(self) -> ExitKind:
        """What a good loader answers."""
        return ExitKind.REJECTED if self.errno else ExitKind.ACCEPTED


# -- edits -----------------------------------------------------------------------------------


def _set(path: str, value: Value) -> Change:
    """Another value in one leaf; nothing else changes."""
    return lambda document: document.with_value(document.find(path), value, Consistency.KEEP)


def _follow(path: str, value: Value) -> Change:
    """Another value in one leaf, and in all that depends on it."""
    return lambda document: document.with_value(document.find(path), value, Consistency.REPAIR)


def _put(path: str, data: bytes) -> Change:
    """Other bytes for one node."""
    return lambda document: document.with_bytes(document.find(path), data)


def _cut(path: str, behind: int = 0) -> Change:
    """The stream up to a node, or to some bytes behind its start."""
    return lambda document: document.read(0, document.find(path).start + behind)


def _cut_behind_sections(document: Document) -> bytes:
    return document.read(0, document.sections[-1].end)


def _without(path: str) -> Change:
    return lambda document: document.without(document.find(path))


def _twice(path: str) -> Change:
    return lambda document: document.duplicated(document.find(path))


def _then(data: bytes) -> Change:
    """The whole stream, with something behind it."""
    return lambda document: document.inserted(document.size, data)


def _part_behind(path: str) -> Change:
    """The section again, as a PART that continues it."""

    def change(document: Document) -> bytes:
        section = _section(document, path)
        again = bytes((QEMU_VM_SECTION_PART,)) + section.section_id.to_bytes(4, "big")
        rest = document.read(section.header_end, section.end)
        return document.inserted(section.end, again + rest)

    return change


def _retyped(path: str, section_type: int) -> Change:
    return lambda document: document.retyped(_section(document, path), section_type)


def _renumbered(path: str, section_id: int) -> Change:
    """Another section id in header, footer and the parts that follow."""
    return lambda document: document.renumbered(_section(document, path), section_id)


def _section(document: Document, path: str) -> SectionNode:
    node = document.find(path)
    assert isinstance(node, SectionNode)
    return node


# -- the table -------------------------------------------------------------------------------

_NONE: Final = "none-fresh"
_RAM: Final = "ram-fresh"
_ZERO_PAGE: Final = "ram/PART[0]/pc.ram/zero 0x0"

DAMAGES: Final[tuple[Damage, ...]] = (
    # The frame.
    Damage("empty", _NONE, lambda document: b"", EIO, (),
           "no byte at all"),
    Damage("magic", _NONE, _put("header/magic", b"QFI\xfb"), EINVAL, ("header",),
           "a disk image is no stream"),
    Damage("version-2", _NONE, _set("header/version", 2), ENOTSUP, ("header",),
           "a version that QEMU gave up"),
    Damage("machine-type", _NONE, _put("configuration/name", b"loadfuzz-referencf"), EINVAL,
           ("configuration",), "another machine's stream"),
    Damage("configuration-length", _NONE, _set("configuration/len", 0xFFFFFFFF), EINVAL,
           ("configuration", "name"), "a machine type of 4 GiB, or of minus one byte"),
    Damage("cut-before-eof", _NONE, _cut_behind_sections, EIO, (),
           "ends where a section was expected: not the same as the EOF byte"),
    Damage("cut-in-field", _NONE, _cut("globalstate/runstate", 20), EIO,
           ("globalstate", "runstate"), "ends inside a field"),
    Damage("cut-in-header", _NONE, _cut("globalstate/idstr", 4), EIO, ("section 0x1",),
           "ends inside the name of a section"),
    Damage("junk-behind", _NONE, _then(b"\x01junk"), 0, (),
           "what follows the vmdesc is nobody's business"),
    Damage("no-vmdesc", _NONE, _without("vmdesc"), 0, (),
           "a stream need not describe itself"),
    Damage("vmdesc-4-gib", _NONE, _set("vmdesc/vmdesc size", 0xFFFFFFFF), EINVAL, ("vmdesc",),
           "claims a description of 4 GiB; QEMU reads to the end and ignores it"),
    Damage("vmdesc-cut", _NONE, _cut("vmdesc/vmdesc", 100), EIO, ("vmdesc",),
           "ends inside the description; QEMU ignores it"),
    # Sections and who they are.
    Damage("section-type", _NONE, _set("timer/section type", 9), EINVAL, (),
           "a type of section that there is not"),
    Damage("footer-id", _NONE, _set("timer/footer/footer section id", 9), EINVAL,
           ("timer", "footer"), "the footer is another section's"),
    Damage("footer-mark", _NONE, _set("timer/footer/footer mark", 0x7F), EINVAL,
           ("timer", "footer"), "no footer where one must be"),
    Damage("section-id", _NONE, _renumbered("timer", 0x63), 0, (),
           "a section id is the stream's own; a loader may not compare it with its registry"),
    Damage("idstr-unknown", _NONE, _follow("timer/idstr", "timex"), EINVAL, ("timex",),
           "a device that the machine does not have"),
    Damage("idstr-empty", _NONE, _follow("timer/idstr", ""), EINVAL, ("section 0x0",),
           "a section without a name"),
    Damage("instance", _NONE, _set("timer/instance id", 1), EINVAL, ("timer",),
           "a second device of a kind of which there is one"),
    Damage("version-newer", _NONE, _set("timer/version id", 3), EINVAL, ("timer", "version"),
           "a device newer than the machine's"),
    Damage("version-older", _NONE, _set("timer/version id", 0), EINVAL, ("timer",),
           "a device too old to be read"),
    Damage("version-sign", _NONE, _set("timer/version id", 0x80000002), EINVAL,
           ("timer", "version"), "a version that is negative when taken as signed"),
    Damage("section-twice", _NONE, _twice("timer"), EINVAL, ("timer",),
           "one device, two states; QEMU takes the second"),
    Damage("full-as-start", _NONE, _retyped("timer", QEMU_VM_SECTION_START), EINVAL, ("timer",),
           "a START for a device that saves no parts; QEMU takes it"),
    Damage("part-of-full", _NONE, _part_behind("timer"), EINVAL, ("timer",),
           "a PART for a device that saves no parts; QEMU loads it again"),
    Damage("runstate-endless", _NONE, _put("globalstate/runstate", b"x" * 100), EINVAL,
           ("globalstate", "runstate"), "a string without its end"),
    # RAM.
    Damage("ram-part-unbegun", _RAM, _without("ram/START"), EINVAL, ("section 0x1",),
           "PART without START"),
    Damage("ram-unended", _RAM, _without("ram/END"), EINVAL, ("ram",),
           "START without END"),
    Damage("ram-total", _RAM, _set("ram/START/mem size/ram header", 0x20004), EINVAL,
           ("ram", "block list", ""),
           "a total that the blocks do not make up"),
    Damage("ram-block-unknown", _RAM,
           _follow("ram/START/mem size/pc.ram/ram block name", "pc.rax"), EINVAL,
           ("ram", "block list", "pc.rax"), "a block that the machine does not have"),
    Damage("ram-block-length", _RAM,
           _set("ram/START/mem size/pc.ram/ram block length", 0x11000), EINVAL,
           ("ram", "block list", "pc.ram"), "a block longer than the machine's"),
    Damage("ram-two-kinds", _RAM, _set(f"{_ZERO_PAGE}/ram header", 0x0A), EINVAL, ("ram",),
           "an item that is a page and a zero page"),
    Damage("ram-full", _RAM, _set(f"{_ZERO_PAGE}/ram header", 0x01), EINVAL, ("ram",),
           "a kind of item that is gone since 2009"),
    Damage("ram-address", _RAM, _set(f"{_ZERO_PAGE}/ram header", 0x10002), EINVAL,
           ("ram", "pc.ram", "page 0x10000"), "the first page behind the block"),
    Damage("ram-fill", _RAM, _set(f"{_ZERO_PAGE}/ram fill byte", 1), EINVAL,
           ("ram", "pc.ram", "page 0x0"), "a zero page of ones; old QEMUs fill memory with it"),
    Damage("ram-stale-continue", _RAM,
           lambda document: document.with_bytes(
               document.find(_ZERO_PAGE), (0x22).to_bytes(8, "big") + b"\0"),
           EINVAL, ("ram", "page 0x0"), "an item in the block before, and there is none"),
)  # fmt: skip
"""Every damaged stream, in the order of the stream they damage."""
