"""What judging costs is measured in a run of its own, and set against the loads of that run."""

from __future__ import annotations

import pytest

from loadfuzz.bench.upkeep import GOAL, measure


def test_a_run_is_split_into_its_loads_and_what_goes_with_them() -> None:
    [figure] = measure(60)
    assert figure.name == "mutate-and-judge"
    assert figure.goal == GOAL
    assert figure.value > 0
    assert figure.baseline > 0
    assert figure.ratio == pytest.approx(figure.baseline / figure.value)
