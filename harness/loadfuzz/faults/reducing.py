"""Fewest faults, as weak as they can be: the first thing that is reduced of an input."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from loadfuzz.faults.kinds import KINDS, PlaceKind
from loadfuzz.faults.plan import DEADLINE_MS, Fault, FaultPlan

RUNS_MAX: Final = 200
"""Times that a plan is tried while it is reduced: 16 faults take 17 rounds of at most 16 to
go one by one, and most take a handful."""


def reduced(plan: FaultPlan, still: Callable[[FaultPlan], bool]) -> FaultPlan:
    """The plan without what is not needed.

    Args:
        plan: of which ``still`` is true.
        still: whether another plan does it, too; asked at most :data:`RUNS_MAX` times.

    Returns:
        A plan of which ``still`` was true, or ``plan`` itself.  Order of work: no faults
        at all, fewer faults, smaller amounts, earlier places.
    """
    runs = 0
    best = plan
    while True:
        for candidate in _smaller(best):
            if runs == RUNS_MAX:
                return best
            runs += 1
            if still(candidate):
                best = candidate
                break
        else:
            return best


def _smaller(plan: FaultPlan) -> Iterator[FaultPlan]:
    if plan.faults:
        yield FaultPlan()
    if len(plan.faults) > 1:
        for fault in plan.faults:
            yield FaultPlan((fault,), plan.deadline_ms)
        for fault in plan.faults:
            yield plan.without(fault)
    if plan.deadline_ms != DEADLINE_MS:
        yield replace(plan, deadline_ms=DEADLINE_MS)
    for at, fault in enumerate(plan.faults):
        row = KINDS[fault.kind]
        for amount in sorted({row.amount_min, fault.amount // 2}):
            if row.amount_min <= amount < fault.amount:
                yield _with(plan, at, replace(fault, amount=amount))
        if fault.place.kind is not PlaceKind.FIELD and fault.place.number:
            step = fault.place.number
            while step:
                place = replace(fault.place, number=fault.place.number - step)
                step //= 2
                yield _with(plan, at, replace(fault, place=place))


def _with(plan: FaultPlan, at: int, fault: Fault) -> FaultPlan:
    return replace(plan, faults=(*plan.faults[:at], fault, *plan.faults[at + 1 :]))
