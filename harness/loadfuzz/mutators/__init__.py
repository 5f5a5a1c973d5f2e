"""Operators on Documents, by level: sections, identity, values, RAM items, frame,
raw bytes.  Each is total and leaves a record that replays it."""

from typing import Final

from loadfuzz.abc import Mutator
from loadfuzz.mutators import frame, identity, ramitems, raw, sections, values

ALL: Final[tuple[Mutator, ...]] = (
    *sections.OPERATORS,
    *identity.OPERATORS,
    *values.OPERATORS,
    *ramitems.OPERATORS,
    *frame.OPERATORS,
    *raw.OPERATORS,
)
"""The weights add up so that about a fifth of the draws are raw bytes."""

__all__ = ["ALL"]
