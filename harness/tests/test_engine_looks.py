"""Closer looks have a budget, and everybody's inputs get theirs."""

from __future__ import annotations

from loadfuzz.engines.looks import (
    PRICE,
    PRICE_REFUSED,
    PRICE_UNKNOWN,
    SAVED_MAX,
    CloserLooks,
)
from loadfuzz.execution import ExitKind
from loadfuzz.mutation import Mutation

COUNT = 20_000


def change(number: int, operator: str = "field-value") -> tuple[Mutation, ...]:
    """Of a field that nobody has changed before."""
    return (Mutation(operator, f"device/field-{chr(97 + number % 26)}{'x' * (number // 26)}", ()),)


def looks_at_new_keys(kind: ExitKind, operator: str = "field-value") -> int:
    looks = CloserLooks()
    return sum(
        looks.worth(kind, change(number, operator), telling=False) for number in range(COUNT // 10)
    )


def test_an_operator_of_endless_fields_gets_no_more_looks_than_it_earns() -> None:
    assert looks_at_new_keys(ExitKind.ACCEPTED) == SAVED_MAX + COUNT // 10 // PRICE


def test_looks_at_refused_inputs_cost_more() -> None:
    saved = SAVED_MAX * PRICE // PRICE_REFUSED
    assert looks_at_new_keys(ExitKind.REJECTED) == saved + COUNT // 10 // PRICE_REFUSED


def test_inputs_of_which_nothing_is_known_get_a_look_every_so_often() -> None:
    looks = CloserLooks()
    seen = sum(looks.worth(ExitKind.ACCEPTED, (), telling=False) for _ in range(COUNT))
    saved = SAVED_MAX * PRICE // PRICE_UNKNOWN
    assert saved + COUNT // PRICE_UNKNOWN <= seen + 1 <= saved + COUNT // PRICE_UNKNOWN + 2


def test_what_tells_something_is_looked_at_for_nothing() -> None:
    looks = CloserLooks()
    told = [looks.worth(ExitKind.REJECTED, change(n), telling=True) for n in range(1000)]
    assert all(told)
    assert looks.worth(ExitKind.REJECTED, change(1001), telling=False)


def test_pages_of_ram_are_one_place_however_their_offsets_are_spelled() -> None:
    looks = CloserLooks()
    paths = [f"ram/PART[0]/pc.ram/page {at:#x}" for at in (0x1A000, 0xB0000, 0x3000)]
    told = [
        looks.worth(ExitKind.ACCEPTED, (Mutation("ram-page", path, ()),), telling=False)
        for path in paths
    ]
    assert told == [True, False, False]
