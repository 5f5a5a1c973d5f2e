"""The statistics that the field asks of a comparison of fuzzers, exact where that is cheap.

Klees et al. (CCS 2018) and Schloegel et al. (S&P 2024): ten trials or more, the whole
distribution, a rank test and an effect size, known bugs rather than crashes.
"""

from collections.abc import Sequence
from functools import cache
from math import comb


def restricted_mean(times: Sequence[float | None], budget: float) -> float:
    """Restricted mean survival time: what passes on average until an event, counting a
    trial in which it did not happen with its whole budget.

    Args:
        times: of the event in each trial, ``None`` where it did not happen.
        budget: of each trial, in the same unit.

    Raises:
        ValueError: there are no trials.

    >>> restricted_mean([10.0, None, 30.0], 60.0)
    33.333333333333336
    """
    if not times:
        raise ValueError("no trials")
    return sum(budget if time is None else min(time, budget) for time in times) / len(times)


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the middle two.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    at = len(ordered) // 2
    return ordered[at] if len(ordered) % 2 else (ordered[at - 1] + ordered[at]) / 2


def a12(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Vargha and Delaney's effect size: how likely one of ``ours`` is larger than one of
    ``theirs``, ties counting half.  0.5 is no difference.

    Raises:
        ValueError: a side is empty.

    >>> a12([3, 4], [1, 4])
    0.625
    """
    if not ours or not theirs:
        raise ValueError("a side has no values")
    more = sum((one > other) + 0.5 * (one == other) for one in ours for other in theirs)
    return more / (len(ours) * len(theirs))


def mann_whitney_p(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney U test, exact with ties: the share of all ways to
    deal out the pooled values that are at least as extreme as this one.

    Args:
        ours, theirs: some dozens of values at the most.

    Raises:
        ValueError: a side is empty.

    >>> mann_whitney_p([1, 2, 3], [4, 5, 6])
    0.1
    """
    if not ours or not theirs:
        raise ValueError("a side has no values")
    ranks = _doubled_ranks([*ours, *theirs])
    observed = sum(ranks[: len(ours)])
    total, taken = sum(ranks), len(ours)
    # Twice the distance from the expected rank sum, kept whole by the denominator.
    size = len(ranks)
    distance = abs(observed * size - total * taken)

    @cache
    def ways(at: int, left: int) -> dict[int, int]:
        """Sums of ``left`` ranks from ``at`` on, and in how many ways."""
        if left == 0:
            return {0: 1}
        if len(ranks) - at < left:
            return {}
        found = dict(ways(at + 1, left))
        for value, count in ways(at + 1, left - 1).items():
            found[value + ranks[at]] = found.get(value + ranks[at], 0) + count
        return found

    extreme = sum(
        count
        for value, count in ways(0, taken).items()
        if abs(value * size - total * taken) >= distance
    )
    return extreme / comb(size, taken)


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the mid-rank of each value, so that ties stay whole numbers."""
    ordered = sorted(values)
    return [
        ordered.index(value) + 1 + len(ordered) - ordered[::-1].index(value) for value in values
    ]


def survival(times: Sequence[float | None], budget: float) -> list[tuple[float, float]]:
    """Share of events that have not happened yet, as a curve of steps.

    Args:
        times: of each event, ``None`` where it did not happen within the budget.
        budget: where the curve ends.

    Returns:
        Points ``(time, share)`` from ``(0, 1)`` on.

    >>> survival([1.0, None], 10.0)
    [(0.0, 1.0), (1.0, 0.5), (10.0, 0.5)]
    """
    left = total = len(times)
    points = [(0.0, 1.0)]
    for time in sorted(time for time in times if time is not None and time <= budget):
        left -= 1
        points.append((time, left / total))
    points.append((budget, left / total if total else 1.0))
    return points
