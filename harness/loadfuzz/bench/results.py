"""One benchmark figure: a value, what it is measured against, and their ratio.

Both sides are taken in turn within one run, since machines are shared and
noisy; the best of several turns stands for each.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TURNS: Final = 5
"""Times both sides are taken; the best of five is steady to some per cent."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a benchmark.

    Attributes:
        name: what was measured.
        value: in ``unit``.
        baseline: what it is compared with, in the same unit.
        ratio: as the goal is put: of value and baseline, whichever way round.
        goal: what the ratio should be at least, ``None`` where there is no goal.
        note: what the baseline is, in words.
    """

    name: str
    value: float
    unit: str
    baseline: float
    ratio: float
    goal: float | None = None
    note: str = ""


def best_of(*sides: Callable[[], None], turns: int = TURNS) -> list[float]:
    """CPU seconds of the best turn of each side, the sides taken alternately."""
    best = [float("inf")] * len(sides)
    for _ in range(turns):
        for index, side in enumerate(sides):
            start = time.process_time()
            side()
            best[index] = min(best[index], time.process_time() - start)
    return best
