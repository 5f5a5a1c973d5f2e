"""Statistics of comparisons against values worked out by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.bench.bugs.statistics import (
    a12,
    mann_whitney_p,
    median,
    restricted_mean,
    survival,
)

SMALL = st.lists(st.integers(0, 4), min_size=1, max_size=4)


def test_a_trial_without_the_event_counts_with_its_budget() -> None:
    assert restricted_mean([10.0, None], 60.0) == 35.0
    assert restricted_mean([90.0], 60.0) == 60.0


def test_no_trials_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no trials"):
        restricted_mean([], 60.0)


def test_the_middle_of_an_even_number_lies_between_two() -> None:
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)


def test_the_effect_size_counts_ties_half() -> None:
    assert a12([2, 2], [1, 1]) == 1.0
    assert a12([1], [1]) == 0.5
    assert a12([0], [1]) == 0.0


def test_ten_against_ten_that_do_not_overlap_have_the_smallest_p_there_is() -> None:
    assert mann_whitney_p(range(10), range(10, 20)) == pytest.approx(2 / 184_756)


def test_equal_sides_are_as_likely_as_can_be() -> None:
    assert mann_whitney_p([1, 1, 1], [1, 1, 1]) == 1.0


@given(SMALL, SMALL)
def test_p_is_the_share_of_deals_that_are_at_least_as_extreme(
    ours: list[int], theirs: list[int]
) -> None:
    pooled = [*ours, *theirs]
    ordered = sorted(pooled)
    ranks = [sum(other < one for other in ordered) + (ordered.count(one) + 1) / 2
             for one in pooled]  # fmt: skip
    expected = sum(ranks) * len(ours) / len(pooled)
    seen = abs(sum(ranks[: len(ours)]) - expected)
    deals = list(combinations(ranks, len(ours)))
    extreme = sum(abs(sum(deal) - expected) >= seen - 1e-9 for deal in deals)
    assert mann_whitney_p(ours, theirs) == pytest.approx(extreme / len(deals))


def test_a_survival_curve_falls_with_each_event_and_ends_at_the_budget() -> None:
    assert survival([2.0, 1.0, None, 99.0], 10.0) == [
        (0.0, 1.0), (1.0, 0.75), (2.0, 0.5), (10.0, 0.5),
    ]  # fmt: skip
