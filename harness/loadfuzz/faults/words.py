"""A plan in words: "connection reset after 4711 bytes, inside ram/PART[0]/pc.ram/page 0x3000"."""

from loadfuzz.faults.kinds import KINDS, Expectation, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.resolving import resolve
from savevm.document import Document

_MEANING = {
    Expectation.MUST_NOT_MATTER: "must not matter",
    Expectation.MUST_REJECT: "must be refused",
    Expectation.MUST_NOT_HARM: "must do no harm",
}


def describe(plan: FaultPlan, document: Document | None = None) -> list[str]:
    """A line for each fault.

    Args:
        plan: what to tell of.
        document: the stream's tree, to say what is at an offset.
    """
    return [describe_fault(fault, document) for fault in plan.faults]


def describe_fault(fault: Fault, document: Document | None = None) -> str:
    """What happens, where, and what must follow."""
    row = KINDS[fault.kind]
    happens = row.words.format(amount=fault.amount)
    return f"{happens} {_where(fault, document)} ({_MEANING[fault.expectation]})"


def _where(fault: Fault, document: Document | None) -> str:
    place = fault.place
    match place.kind:
        case PlaceKind.BYTE:
            return f"after {place.number} bytes{_inside(place.number, document)}"
        case PlaceKind.SECTION | PlaceKind.FIELD:
            what = f"section {place.number}" if place.kind is PlaceKind.SECTION else place.name
            if document is None:
                return f"at the beginning of {what}"
            found = resolve(FaultPlan((fault,)), document).faults
            if not found:
                return f"at {what}, which this stream has not got"
            offset = found[0].place.number
            return f"at the beginning of {what}, after {offset} bytes"
        case PlaceKind.READ | PlaceKind.WRITE | PlaceKind.STEP:
            return f"at {place.kind} {place.number}"
        case PlaceKind.DISK:
            disk, _, operation = place.name.partition("/")
            return f"at {operation} {place.number} of {disk}"
        case PlaceKind.CALL:
            device, _, hook = place.name.rpartition("/")
            return f"at call {place.number} of {hook} of {device}"


def _inside(offset: int, document: Document | None) -> str:
    if document is None:
        return ""
    if offset >= document.root.end:
        return ", behind the end"
    leaf = document.leaf_at(offset)
    section = document.section_at(offset)
    if section is not None and section.start == offset:
        return f", before {section.path}"
    return f", inside {leaf.path}"
