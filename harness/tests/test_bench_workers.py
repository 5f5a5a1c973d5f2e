"""Campaigns of one and of two workers, measured in turn."""

from __future__ import annotations

import pytest

from loadfuzz.bench.workers import GOAL, SUPERVISOR_MAX, measure


def test_two_workers_are_set_against_one_and_the_supervisor_against_its_limit() -> None:
    two, supervisor = measure(40)
    assert (two.name, two.goal) == ("two-workers", GOAL)
    assert two.baseline > 0
    assert two.ratio == pytest.approx(two.value / two.baseline)
    assert supervisor.value > 0
    assert supervisor.ratio == pytest.approx(SUPERVISOR_MAX / supervisor.value)
