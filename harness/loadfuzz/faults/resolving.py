"""Places in a stream's own terms as offsets: the n-th section, the field of a path."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from loadfuzz.faults.kinds import PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, at_byte
from savevm.document import Document

_OF_THE_STREAM: Final = frozenset({PlaceKind.SECTION, PlaceKind.FIELD})


def needs_document(plan: FaultPlan) -> bool:
    """Whether a place of the plan is known only when the stream is understood."""
    return any(fault.place.kind in _OF_THE_STREAM for fault in plan.faults)


def resolve(plan: FaultPlan, document: Document) -> FaultPlan:
    """The same plan with every place in the stream as a byte.

    A fault at a section or field that the stream has not got is left out: it strikes
    nowhere, since a mutated stream may have lost its place.
    """
    if not needs_document(plan):
        return plan
    return replace(plan, faults=tuple(_resolved(plan, document)))


def _resolved(plan: FaultPlan, document: Document) -> Iterator[Fault]:
    for fault in plan.faults:
        offset = _offset(fault, document)
        if offset is None:
            yield fault
        elif offset >= 0:
            yield replace(fault, place=at_byte(offset))


def _offset(fault: Fault, document: Document) -> int | None:
    """Where the place is; ``None`` for one that is no place of the stream's own, -1 for
    one that this stream has not got."""
    place = fault.place
    if place.kind is PlaceKind.SECTION:
        sections = document.sections
        return sections[place.number].start if place.number < len(sections) else -1
    if place.kind is PlaceKind.FIELD:
        try:
            return document.find(place.name).start
        except KeyError:
            return -1
    return None
