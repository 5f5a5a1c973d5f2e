"""Which inputs the dear oracles look at, beside a sampled share.

Theory of operation.  What shows new behaviour is worth a closer look.  But a damaged
field that is accepted shows none, and yet is the most telling input there is; so is a
good stream that is refused.  So every input has a key: what was done to it, at which
field, about how large what is there now is, and how the load ended.  The 1st, 4th,
16th, ... input of each key is looked at.

A closer look costs some tens of loads, and there are thousands of keys.  So these looks
have a budget, counted in executions and not by a clock, that a campaign may repeat
itself: every input earns a part of a look for the operator that made it, so that one
with thousands of fields does not take the looks of one that moves sections.  What cannot
be afforded waits for the next of its key.  What is new is looked at whatever it costs:
there is less and less of it.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from loadfuzz.execution import ExitKind
from loadfuzz.mutation import Mutation

EARNED: Final = 24
"""Inputs of an operator that earn it one look."""
SAVED_MAX: Final = 12
"""Looks that an operator can save up, and those that it begins with."""
OPERATORS_MAX: Final = 1000
"""Operators with a budget of their own; a mutator that invents names gets none."""
KEYS_MAX: Final = 1 << 16
"""Keys told apart; then all are forgotten, which costs only time."""

Key: TypeAlias = tuple[str, str, int, ExitKind]

_NUMBERS: Final = re.compile(r"~?\d+|0x[0-9a-f]+")


class CloserLooks:
    """Decides for one worker."""

    __slots__ = ("_credit", "_places", "_seen")

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}
        self._seen: dict[Key, int] = {}
        self._places: dict[str, str] = {}

    def worth(self, kind: ExitKind, mutations: Sequence[Mutation], *, telling: bool) -> bool:
        """Whether the dear oracles should look at an input.

        Args:
            kind: how its load ended.
            mutations: what was done to it.
            telling: feedback says that it showed something new.
        """
        credit = self._credit
        affords = False
        due: list[tuple[Key, int]] = []
        for mutation in mutations:
            operator = mutation.operator
            saved = credit.get(operator)
            if saved is None:
                if len(credit) >= OPERATORS_MAX:
                    continue
                saved = SAVED_MAX * EARNED
            saved = credit[operator] = min(saved + 1, SAVED_MAX * EARNED)
            key = (operator, self._place(mutation.path), len(mutation.new), kind)
            times = self._seen.get(key, 0) + 1
            if times & (times - 1) == 0 and times.bit_length() % 2:
                due.append((key, times))
                if saved >= EARNED and not affords:
                    affords = True
                    if not telling:
                        credit[operator] = saved - EARNED
            else:
                self._seen[key] = times
        if not telling and not affords:
            return False
        # Only what is looked at counts: what could not be afforded is still due.
        if len(self._seen) > KEYS_MAX:
            self._seen.clear()
        self._seen.update(due)
        return True

    def _place(self, path: str) -> str:
        place = self._places.get(path)
        if place is None:
            if len(self._places) > KEYS_MAX:
                self._places.clear()
            place = self._places[path] = _NUMBERS.sub("#", path)
        return place
