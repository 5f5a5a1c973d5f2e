"""Mutators of plans: a fresh one, or a plan that did something new with one thing changed.

Places are drawn where loaders change their mind: at section boundaries and just beside
them, at the beginning and the end, and anywhere.  Amounts are drawn at their bounds and
by powers of two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadfuzz.faults.kinds import KINDS, FaultKind, KindRow, Layer, PlaceKind
from loadfuzz.faults.plan import FAULTS_MAX, Fault, FaultPlan, Place, at_byte
from loadfuzz.rng import Rng

FRESH_MAX: Final = 3
"""Faults of a fresh plan: one says most, and few pairs say more."""
READS_DRAWN: Final = 64
"""Reads or steps among which one is drawn: a load of a small stream makes fewer."""
CALLS_DRAWN: Final = 4
"""Calls of one operation among which one is drawn."""
UNDRAWN: Final = frozenset({FaultKind.KILL, FaultKind.NEVER_CONVERGES})
"""Kinds that are not drawn for loads in our own process: nothing of it would be left to look
at, and a load has no live rounds."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What faults are drawn for.

    Attributes:
        layers: what can go wrong.
        size: of the stream, in bytes.
        sections: offsets of the stream's sections.
        names: of places by kind, where a place has a name (:attr:`PlaceKind.DISK`,
            :attr:`PlaceKind.CALL`).
    """

    layers: frozenset[Layer]
    size: int
    sections: Sequence[int]
    names: Mapping[PlaceKind, Sequence[str]]

    def kinds(self) -> list[FaultKind]:
        """What can be drawn, in the order of the table."""
        return [
            kind
            for kind, row in KINDS.items()
            if row.layer in self.layers and kind not in UNDRAWN and self._has_place(row)
        ]

    def _has_place(self, row: KindRow) -> bool:
        return any(place not in _NAMED or self.names.get(place) for place in row.places)


_NAMED: Final = frozenset({PlaceKind.DISK, PlaceKind.CALL})
_DRAWN_PLACES: Final = frozenset(
    {PlaceKind.BYTE, PlaceKind.READ, PlaceKind.STEP, PlaceKind.DISK, PlaceKind.CALL}
)


def fresh(setting: Setting, rng: Rng) -> FaultPlan:
    """A plan of one to three faults; empty where nothing can go wrong."""
    kinds = setting.kinds()
    if not kinds:
        return FaultPlan()
    count = 1 + rng.chance(1, 4) * rng.between(1, FRESH_MAX - 1)
    return FaultPlan(tuple(_fault(setting, kinds, rng) for _ in range(count)))


def changed(plan: FaultPlan, setting: Setting, rng: Rng) -> FaultPlan:
    """The plan with one thing changed: a place, an amount, a fault more or less."""
    if not plan.faults:
        return fresh(setting, rng)
    return rng.choice(_CHANGES)(plan, setting, rng)


def _moved(plan: FaultPlan, setting: Setting, rng: Rng) -> FaultPlan:
    at = rng.below(len(plan.faults))
    fault = plan.faults[at]
    place = fault.place
    if place.kind is PlaceKind.BYTE and rng.chance(1, 2):
        number = max(0, place.number + rng.choice((-1, 1)) * (1 << rng.below(8)))
    elif place.kind is PlaceKind.BYTE:
        number = _offset(setting, rng)
    else:
        number = max(0, place.number + rng.choice((-1, 1)))
    return _with(plan, at, replace(fault, place=replace(place, number=number)))


def _resized(plan: FaultPlan, setting: Setting, rng: Rng) -> FaultPlan:
    at = rng.below(len(plan.faults))
    fault = plan.faults[at]
    return _with(plan, at, replace(fault, amount=_amount(KINDS[fault.kind], rng)))


def _added(plan: FaultPlan, setting: Setting, rng: Rng) -> FaultPlan:
    kinds = setting.kinds()
    if len(plan.faults) >= FAULTS_MAX or not kinds:
        return _dropped(plan, setting, rng)
    return replace(plan, faults=(*plan.faults, _fault(setting, kinds, rng)))


def _dropped(plan: FaultPlan, setting: Setting, rng: Rng) -> FaultPlan:
    if len(plan.faults) < 2:
        return fresh(setting, rng)
    return plan.without(rng.choice(plan.faults))


_CHANGES: Final[tuple[Callable[[FaultPlan, Setting, Rng], FaultPlan], ...]] = (
    _moved, _moved, _resized, _added, _dropped,
)  # fmt: skip


def _with(plan: FaultPlan, at: int, fault: Fault) -> FaultPlan:
    return replace(plan, faults=(*plan.faults[:at], fault, *plan.faults[at + 1 :]))


def _fault(setting: Setting, kinds: Sequence[FaultKind], rng: Rng) -> Fault:
    kind = rng.choice(kinds)
    row = KINDS[kind]
    places = [
        place
        for place in row.places
        if place in _DRAWN_PLACES and (place not in _NAMED or setting.names.get(place))
    ]
    return Fault(kind, _place(rng.choice(places), setting, rng), _amount(row, rng), row.expectation)


def _place(kind: PlaceKind, setting: Setting, rng: Rng) -> Place:
    match kind:
        case PlaceKind.BYTE:
            return at_byte(_offset(setting, rng))
        case PlaceKind.DISK | PlaceKind.CALL:
            return Place(kind, rng.below(CALLS_DRAWN), rng.choice(setting.names[kind]))
        case _:
            return Place(kind, rng.below(rng.choice((4, READS_DRAWN))))


def _offset(setting: Setting, rng: Rng) -> int:
    if setting.sections and rng.chance(1, 2):
        near = rng.choice(setting.sections) + rng.choice((-1, 0, 0, 1))
        return min(max(near, 0), setting.size)
    return rng.between(0, setting.size)


def _amount(row: KindRow, rng: Rng) -> int:
    if row.amount_max == row.amount_min:
        return row.amount_min
    if rng.chance(1, 4):
        return row.amount_usual
    amount = 1 << rng.below(row.amount_max.bit_length())
    return min(max(amount + rng.choice((-1, 0, 1)), row.amount_min), row.amount_max)
