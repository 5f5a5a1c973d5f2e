"""Where a sweep strikes, and the input that a place stands for."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from loadfuzz.faults.kinds import CHANGES_BYTES, KINDS, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, Place, at_byte
from loadfuzz.faults.source import FaultySource
from loadfuzz.inputs import Delivery, Input
from loadfuzz.mutation import Mutation, Splice
from savevm.constants import IO_BUF_SIZE
from savevm.document import Document

ALIASES: Final = {"truncate": FaultKind.CLOSE}
"""What people call a fault where they think of files."""
OTHER_STREAMS: Final = CHANGES_BYTES | {FaultKind.CLOSE}
"""Kinds that are another stream, for a loader elsewhere that is given whole streams."""


class At(StrEnum):
    """Which offsets of a stream are tried."""

    OFFSETS = "offsets"
    SECTIONS = "sections"
    FIELDS = "fields"


def sweepable(layers: frozenset[Layer]) -> list[FaultKind]:
    """Kinds that can strike at an offset where ``layers`` can go wrong."""
    return [
        kind
        for kind, row in KINDS.items()
        if row.layer in layers and (PlaceKind.BYTE in row.places or kind is FaultKind.CANCEL)
    ]


def offsets_of(document: Document, at: frozenset[At], step: int) -> list[int]:
    """The offsets that are tried, ascending; the end of the stream is no place.

    Args:
        document: the stream's tree.
        at: which.
        step: of every offset, one in so many.
    """
    found: set[int] = set()
    if At.OFFSETS in at:
        found.update(range(0, document.size, step))
    if At.SECTIONS in at:
        found.update(node.start for node in document.root.children)
        found.update(section.payload_end for section in document.sections)
    if At.FIELDS in at:
        found.update(leaf.start for leaf in document.leaves())
    return sorted(offset for offset in found if offset < document.size)


def input_at(stream: bytes, kind: FaultKind, offset: int, amount: int | None) -> Input:
    """The stream with the fault at an offset."""
    if kind is not FaultKind.CANCEL:
        fault = Fault.of(kind, at_byte(offset), amount)
        fault.check()
        return Input(stream, faults=FaultPlan((fault,)))
    # A load is cancelled where it waits: so it has to wait there, for the byte at the offset.
    pieces = [IO_BUF_SIZE] * (offset // IO_BUF_SIZE)
    if offset % IO_BUF_SIZE:
        pieces.append(offset % IO_BUF_SIZE)
    fault = Fault.of(kind, Place(PlaceKind.STEP, len(pieces)))
    return Input(stream, Delivery((*pieces, IO_BUF_SIZE)), faults=FaultPlan((fault,)))


def stream_under(item: Input) -> bytes:
    """What arrives of an input whose fault changes bytes."""
    source = FaultySource(item.stream, item.faults)
    pieces: list[bytes] = []
    while piece := source.read(max(len(item.stream), 1)):
        pieces.append(bytes(piece))
    return b"".join(pieces)


def mutation_of(item: Input, document: Document) -> Mutation:
    """What a fault that changes bytes did to the stream, as a mutation of it."""
    old, new = item.stream, stream_under(item)
    start = 0
    end = min(len(old), len(new))
    while start < end and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < end - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    (fault,) = item.faults.faults
    path = document.leaf_at(start).path if start < document.size else ""
    change = Splice(start, len(old) - tail, new[start : len(new) - tail])
    return Mutation(f"fault-{fault.kind}", path, (change,))


def chunks(offsets: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """``offsets`` in pieces of ``size``."""
    return [tuple(offsets[at : at + size]) for at in range(0, len(offsets), size)]
