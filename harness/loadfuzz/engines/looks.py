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
be afforded waits for the next of its key.  A refused input costs an operator more: there
are more of them, and they tell less.  What is new is looked at whatever it costs: there
is less and less of it.

Of an input that nobody knows how to tell from others (a general fuzzer's), every so
manieth is looked at: more of them than of our own, which are chosen.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from loadfuzz.execution import ExitKind
from loadfuzz.mutation import Mutation

PRICE: Final = 128
"""Inputs of an operator that earn it one look at an input that was not refused."""
PRICE_REFUSED: Final = 256
"""Those that earn it one at a refused one."""
PRICE_UNKNOWN: Final = 24
"""Inputs that earn one look where nothing is known of what was done to them."""
SAVED_MAX: Final = 12
"""Looks, of those that cost :data:`PRICE`, that an operator can save up, and those that
it begins with."""
OPERATORS_MAX: Final = 1000
"""Operators with a budget of their own; a mutator that invents names gets none."""
KEYS_MAX: Final = 1 << 16
"""Keys told apart; then all are forgotten, which costs only time."""

_UNKNOWN: Final = ""
"""Account of inputs of which nothing is known."""

Key: TypeAlias = tuple[str, str, int, ExitKind]

_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|~?\d+")


class CloserLooks:
    """Decides for one worker."""

    __slots__ = ("_credit", "_places", "_seen")

    def __init__(self) -> None:
        self._credit: dict[str, int] = {_UNKNOWN: SAVED_MAX * PRICE}
        self._seen: dict[Key, int] = {}
        self._places: dict[str, str] = {}

    def worth(self, kind: ExitKind, mutations: Sequence[Mutation], *, telling: bool) -> bool:
        """Whether the dear oracles should look at an input.

        Args:
            kind: how its load ended.
            mutations: what was done to it; nothing where that is not known.
            telling: feedback says that it showed something new.
        """
        if not mutations:
            self._earn(_UNKNOWN)
            return telling or self._pay(_UNKNOWN, PRICE_UNKNOWN)
        price = PRICE_REFUSED if kind is ExitKind.REJECTED else PRICE
        affords = False
        due: list[tuple[Key, int]] = []
        for mutation in mutations:
            operator = mutation.operator
            if not self._earn(operator):
                continue
            key = (operator, self._place(mutation.path), len(mutation.new), kind)
            times = self._seen.get(key, 0) + 1
            if times & (times - 1) == 0 and times.bit_length() % 2:
                due.append((key, times))
                affords = affords or telling or self._pay(operator, price)
            else:
                self._seen[key] = times
        if not telling and not affords:
            return False
        # Only what is looked at counts: what could not be afforded is still due.
        if len(self._seen) > KEYS_MAX:
            self._seen.clear()
        self._seen.update(due)
        return True

    def _earn(self, operator: str) -> bool:
        """Credit ``operator`` with an input; False if it has no account and gets none."""
        saved = self._credit.get(operator)
        if saved is None:
            if len(self._credit) >= OPERATORS_MAX:
                return False
            saved = SAVED_MAX * PRICE
        self._credit[operator] = min(saved + 1, SAVED_MAX * PRICE)
        return True

    def _pay(self, operator: str, price: int) -> bool:
        """Take ``price`` from what ``operator`` has, if it has as much."""
        saved = self._credit[operator]
        if saved < price:
            return False
        self._credit[operator] = saved - price
        return True

    def _place(self, path: str) -> str:
        place = self._places.get(path)
        if place is None:
            if len(self._places) > KEYS_MAX:
                self._places.clear()
            place = self._places[path] = _NUMBERS.sub("#", path)
        return place
