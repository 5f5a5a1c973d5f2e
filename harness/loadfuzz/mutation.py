"""What was changed: records that replay a mutation exactly.

Every change of a stream is a list of splices on the parent's bytes, whatever
level it was thought up on; so ``apply(record, parent) == child`` holds for all
operators alike, and a report can show the one field that matters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Splice:
    """Bytes ``start`` to ``end`` of the parent become ``replacement``."""

    start: int
    end: int
    replacement: bytes


@dataclass(frozen=True, slots=True)
class Mutation:
    """One application of one operator.

    Attributes:
        operator: its name.
        path: of the node it changed, such as ``nic/rx_ring[3]``; "" for raw bytes.
        splices: on the parent's bytes, in ascending order, not overlapping.
        old: what was there, for people.
        new: what is there now, for people.
    """

    operator: str
    path: str
    splices: tuple[Splice, ...]
    old: str = ""
    new: str = ""


def splice(parent: bytes, splices: Sequence[Splice]) -> bytes:
    """The bytes after all splices.

    Raises:
        ValueError: they overlap, are out of order, or lie outside the parent.
    """
    whole = memoryview(parent)  # a slice of it copies nothing, and streams may be long
    pieces: list[bytes | memoryview] = []
    position = 0
    for item in splices:
        if not position <= item.start <= item.end <= len(parent):
            raise ValueError(f"splice {item.start}..{item.end} does not fit its parent")
        pieces += (whole[position : item.start], item.replacement)
        position = item.end
    pieces.append(whole[position:])
    return b"".join(pieces)


def apply(mutations: Iterable[Mutation], parent: bytes) -> bytes:
    """The child that a list of mutations makes of ``parent``, one after another.

    Raises:
        ValueError: a mutation was recorded for another parent.
    """
    for mutation in mutations:
        parent = splice(parent, mutation.splices)
    return parent
