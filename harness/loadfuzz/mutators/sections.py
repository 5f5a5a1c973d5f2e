"""The list of sections: drop, duplicate, reorder, retype, splice, cut."""

from itertools import islice
from typing import Final

from loadfuzz.abc import Mutable
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.operator import Operator, several, shown
from loadfuzz.rng import Rng
from savevm.document import NodeKind, SectionNode

_KINDS: Final = {1: 4, 4: 1, 2: 3, 3: 2}
"""START and FULL look alike on the wire, so do PART and END."""
_LEAVES_MAX: Final = 4096
"""Leaves of a section that a stream is cut at."""
_DONATED_MAX: Final = 1 << 16
"""Bytes taken from another stream at once: the largest device section of a
real machine is about that long."""


def drop(subject: Mutable, rng: Rng) -> Mutation | None:
    """A section less; or its END or footer less."""
    section = _any(subject, rng)
    if section is None:
        return None
    footer = section.footer
    if footer is not None and rng.chance(1, 4):
        return _cut("section-drop", footer.path, footer.start, footer.end, subject)
    return _cut("section-drop", section.path, section.start, section.end, subject)


def duplicate(subject: Mutable, rng: Rng) -> Mutation | None:
    """A section twice: at once, or before another one."""
    section = _any(subject, rng)
    if section is None:
        return None
    other = _any(subject, rng)
    at = section.end if other is None or rng.chance(1, 2) else other.start
    body = subject.stream[section.start : section.end]
    return _insert("section-duplicate", section.path, at, body, subject)


def swap(subject: Mutable, rng: Rng) -> Mutation | None:
    """Two sections change places."""
    first, second = _any(subject, rng), _any(subject, rng)
    if first is None or second is None or first.start == second.start:
        return None
    if first.start > second.start:
        first, second = second, first
    if first.end > second.start:
        return None
    body = subject.stream
    splices = (
        Splice(first.start, first.end, body[second.start : second.end]),
        Splice(second.start, second.end, body[first.start : first.end]),
    )
    return several("section-swap", first.path, splices, first.path, second.path)


def retype(subject: Mutable, rng: Rng) -> Mutation | None:
    """FULL becomes START, END becomes PART, and the other way round."""
    section = _any(subject, rng)
    if section is None or section.type not in _KINDS:
        return None
    new = _KINDS[section.type]
    change = Splice(section.start, section.start + 1, bytes([new]))
    return several("section-retype", section.path, (change,), section.type, new)


def renumber(subject: Mutable, rng: Rng) -> Mutation | None:
    """Another section id in header and footer alike: consistent, and perhaps
    that of another section."""
    section = _any(subject, rng)
    if section is None or section.header_end - section.start < 5:
        return None
    other = _any(subject, rng)
    new = other.section_id if other is not None and rng.chance(1, 2) else rng.bits(32)
    data = (new & 0xFFFF_FFFF).to_bytes(4, "big")
    splices = [Splice(section.start + 1, section.start + 5, data)]
    footer = section.footer
    if footer is not None and footer.size == 5:
        splices.append(Splice(footer.start + 1, footer.end, data))
    return several("section-renumber", section.path, splices, section.section_id, new)


def cut(subject: Mutable, rng: Rng) -> Mutation | None:
    """The stream ends: at a section's start or end, where a field begins, or anywhere."""
    section = _any(subject, rng)
    if section is None:
        return None
    way = rng.below(4)
    if way == 0:
        at = rng.choice((section.start, section.end))
    elif way == 1:
        at = rng.between(section.start, section.end)
    else:
        at = rng.choice(list(islice(section.leaves(), _LEAVES_MAX))).start
    return _cut("stream-cut", section.path, at, len(subject.stream), subject)


def splice_in(subject: Mutable, rng: Rng) -> Mutation | None:
    """A section of another stream: before one of ours, or in its place."""
    section = _any(subject, rng)
    if section is None or not subject.donor:
        return None
    if subject.donor_places is None or not subject.donor_places.sections:
        return _some_bytes(section, subject, rng)
    given = rng.choice(subject.donor_places.sections)
    body = subject.donor[given.start : given.end]
    same = [one for one in subject.places.sections if one.idstr == given.idstr]
    if rng.chance(1, 2):
        old = rng.choice(same) if same else section
        if len(subject.stream) + len(body) - old.size > subject.size_max:
            return None
        change = Splice(old.start, old.end, body)
        return Mutation("section-splice", old.path, (change,), "its own", "the donor's")
    return _insert("section-splice", section.path, section.start, body, subject)


def _some_bytes(section: SectionNode, subject: Mutable, rng: Rng) -> Mutation | None:
    """Bytes of a donor whose tree is not known, from behind what may be a footer."""
    start = rng.below(len(subject.donor))
    found = subject.donor.find(b"\x7e", start)
    start = found + 5 if 0 <= found < len(subject.donor) - 5 else start
    body = subject.donor[start : start + rng.between(1, _DONATED_MAX)]
    return _insert("section-splice", section.path, section.start, body, subject)


def crossover(subject: Mutable, rng: Rng) -> Mutation | None:
    """Our sections up to one, and the donor's from one on."""
    section = _any(subject, rng)
    places = subject.donor_places
    if section is None or places is None or not places.sections:
        return None
    given = rng.choice(places.sections)
    tail = subject.donor[given.start :]
    if section.start + len(tail) > subject.size_max:
        return None
    change = Splice(section.start, len(subject.stream), tail)
    return Mutation("crossover", section.path, (change,), section.path, given.path)


def subsection(subject: Mutable, rng: Rng) -> Mutation | None:
    """A subsection dropped, twice, or behind another device's fields."""
    section = _any(subject, rng)
    if section is None:
        return None
    found = [node for node in section.walk() if node.kind is NodeKind.SUBSECTION]
    if not found:
        return None
    node = rng.choice(found)
    body = subject.stream[node.start : node.end]
    way = rng.below(3)
    if way == 0:
        return _cut("subsection-drop", node.path, node.start, node.end, subject)
    if way == 1:
        return _insert("subsection-duplicate", node.path, node.end, body, subject)
    other = _any(subject, rng)
    at = other.payload_end if other is not None else node.start
    return _insert("subsection-move", node.path, at, body, subject)


def _any(subject: Mutable, rng: Rng) -> SectionNode | None:
    sections = subject.places.sections
    return rng.choice(sections) if sections else None


def _cut(operator: str, path: str, start: int, end: int, subject: Mutable) -> Mutation | None:
    if start >= end:
        return None
    gone = f"{end - start} bytes from {start:#x}"
    return Mutation(operator, path, (Splice(start, end, b""),), gone, "")


def _insert(operator: str, path: str, at: int, body: bytes, subject: Mutable) -> Mutation | None:
    if not body or len(subject.stream) + len(body) > subject.size_max:
        return None
    return Mutation(operator, path, (Splice(at, at, body),), "", f"{shown(body)} at {at:#x}")


OPERATORS: Final = (
    Operator("section-drop", 4, drop),
    Operator("section-duplicate", 4, duplicate),
    Operator("section-swap", 3, swap),
    Operator("section-retype", 3, retype),
    Operator("section-renumber", 3, renumber),
    Operator("stream-cut", 4, cut),
    Operator("section-splice", 3, splice_in),
    Operator("crossover", 3, crossover),
    Operator("subsection", 4, subsection),
)
