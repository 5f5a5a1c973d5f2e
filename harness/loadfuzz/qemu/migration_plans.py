"""Random plans for a migration between two QEMUs, drawn where things part.

That is at sections, at the end of the state and behind it, where one side is done and the
other is not, and anywhere else.
"""

from dataclasses import dataclass
from typing import Final

from loadfuzz.faults.kinds import KINDS, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import DEADLINE_MS, Fault, FaultPlan, Place
from loadfuzz.qemu.proxy import STEP_SIZE
from loadfuzz.rng import Rng

FAULTS_DRAWN: Final = 2
"""Faults of a plan at most: one in four plans has a second one."""
TAIL_SIZE: Final = 64
"""Bytes before the end of the state that count as its tail, where the two sides' verdicts part."""
_STALLS_MS: Final = (1, 100, 1000, DEADLINE_MS - 1, DEADLINE_MS + 1, 4 * DEADLINE_MS)
_WEIGHTS: Final = {
    FaultKind.CANCEL: 3,
    FaultKind.KILL: 3,
    FaultKind.RESET: 2,
    FaultKind.HALF_CLOSE: 2,
}
"""How often a kind is drawn, where that is more than once."""
_KINDS: Final = tuple(
    kind
    for kind, row in KINDS.items()
    if row.layer is Layer.TRANSPORT or kind in (FaultKind.KILL, FaultKind.CANCEL)
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine sends when nothing goes wrong; it differs a little each time.

    Attributes:
        size: bytes.
        sections: how many.
        state_end: offset behind the end of the state.
    """

    size: int
    sections: int
    state_end: int


def draw(shape: Shape, rng: Rng) -> FaultPlan:
    """A random plan for a machine: one fault or two."""
    count = 1 + (FAULTS_DRAWN - 1) * rng.chance(1, 4)
    return FaultPlan(tuple(_fault(shape, rng) for _ in range(count)))


def _fault(shape: Shape, rng: Rng) -> Fault:
    kind = rng.weighted(_KINDS, [_WEIGHTS.get(kind, 1) for kind in _KINDS])
    row = KINDS[kind]
    if PlaceKind.STEP in row.places:
        # Both sides, and some behind the last byte.
        return Fault.of(kind, Place(PlaceKind.STEP, rng.below(2 * (shape.size // STEP_SIZE + 3))))
    amount = row.amount_usual
    if kind is FaultKind.STALL:
        amount = rng.choice(_STALLS_MS)
    elif row.amount_max > row.amount_min and rng.chance(1, 2):
        amount = 1 << rng.below(row.amount_max.bit_length())
        amount = min(max(amount, row.amount_min), row.amount_max)
    return Fault.of(kind, _place(shape, PlaceKind.READ in row.places, rng), amount)


def _place(shape: Shape, reads: bool, rng: Rng) -> Place:
    match rng.below(4 if reads else 3):
        case 0:
            return Place(PlaceKind.SECTION, rng.below(shape.sections))
        case 1:
            tail = max(shape.state_end - TAIL_SIZE, 0)
            return Place(PlaceKind.BYTE, rng.between(tail, max(shape.size - 1, tail)))
        case 2:
            return Place(PlaceKind.BYTE, rng.below(shape.size))
        case _:
            return Place(PlaceKind.READ, rng.below(shape.size // STEP_SIZE + 1))
