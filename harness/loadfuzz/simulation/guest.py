"""What the guest of a simulated process does, tick by tick.

It follows from the machine's state alone, so a twin that is given as many ticks is in the same
state, wherever the other one was migrated to meanwhile.
"""

from dataclasses import dataclass
from typing import Final

from savevm.guest import LCG_INCREMENT, LCG_MULTIPLIER
from savevm.machine import Machine

_U64: Final = (1 << 64) - 1
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class GuestPace:
    """How busy the guest is.

    Attributes:
        period_ns: virtual nanoseconds from tick to tick.
        steps: of the machine's guest program at each.
        writes: to RAM besides, at each, all over its blocks.
    """

    period_ns: int
    steps: int
    writes: int


def tick(machine: Machine, pace: GuestPace) -> None:
    """Let the guest run for a moment."""
    machine.step(pace.steps)
    blocks = machine.ram.blocks if machine.ram is not None else ()
    if not blocks:
        return
    number = machine.clock.now_ns
    for _ in range(pace.writes):
        number = number * LCG_MULTIPLIER + LCG_INCREMENT & _U64
        block = blocks[(number >> 33) % len(blocks)]
        words = block.used_length // _WORD
        block.write((number >> 35) % words * _WORD, number.to_bytes(_WORD, "big"))
