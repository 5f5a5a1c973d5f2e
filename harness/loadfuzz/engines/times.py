"""How long loads take, counted in classes: percentiles of any number of loads, from any
number of workers, in constant memory."""

from collections.abc import Mapping
from math import log2
from typing import Final

CLASSES_PER_OCTAVE: Final = 4
"""Each class is so much of a doubling: a percentile is right to 19 %."""
CLASS_MAX: Final = 40 * CLASSES_PER_OCTAVE
"""That of twelve days, in microseconds."""


def class_of(seconds: float) -> int:
    """The class of a load of so many CPU seconds."""
    microseconds = seconds * 1e6
    if microseconds <= 1:
        return 0
    return min(int(log2(microseconds) * CLASSES_PER_OCTAVE), CLASS_MAX)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """Seconds within which this share of loads ends; ``None`` where there were none.

    Args:
        counts: loads by class.
        share: 0 to 1.
    """
    wanted = share * sum(counts.values())
    seen = 0
    for number in sorted(counts):
        seen += counts[number]
        if seen and seen >= wanted:
            # The upper end of the class.
            return float(2 ** ((min(number, CLASS_MAX) + 1) / CLASSES_PER_OCTAVE)) / 1e6
    return None
