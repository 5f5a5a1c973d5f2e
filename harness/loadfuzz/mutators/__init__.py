"""Operators on Documents, by level: sections, identity, values and lists, RAM items, what
frames the stream, raw bytes.  Each is total and leaves a record that replays it."""

from typing import Final

from loadfuzz.abc import Mutator
from loadfuzz.mutators import (
    configuration,
    dictionary,
    frame,
    identity,
    lists,
    ramitems,
    raw,
    sections,
    subsections,
    values,
)

ALL: Final[tuple[Mutator, ...]] = (
    *sections.OPERATORS,
    *identity.OPERATORS,
    *subsections.OPERATORS,
    *values.OPERATORS,
    *lists.OPERATORS,
    *ramitems.OPERATORS,
    *configuration.OPERATORS,
    *frame.OPERATORS,
    *raw.OPERATORS,
    *dictionary.OPERATORS,
)
"""The weights add up so that 20 to 25 % of the draws are raw bytes."""

__all__ = ["ALL"]
