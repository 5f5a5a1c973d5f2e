"""The simulation of clusters, on campaigns whose numbers are known."""

import json
from math import inf
from pathlib import Path

import pytest

from loadfuzz.bench.scale.model import Costs, rates_of_growth, simulate
from loadfuzz.testing.installed import Installed

FREE = Costs(100.0, 0.0, 10.0, 0.0, 0.0, 1000.0, 100.0)
RARE = 1e-6


def test_a_bug_takes_one_worker_as_long_as_its_rate_says_and_two_half_of_it() -> None:
    # Half of all tries find it after ln 2 / rate executions.
    one = simulate(1, FREE, [], [1e-5], horizon_s=10.0)
    assert one.seconds_all == pytest.approx(693.1, abs=10.0)
    two = simulate(2, FREE, [], [1e-5], horizon_s=10.0)
    assert two.seconds_all == pytest.approx(346.6, abs=10.0)
    assert one.supervisor == 0.0


def test_what_all_batches_find_is_sent_by_each_and_kept_once() -> None:
    sure, workers = [1.0] * 7, 4
    found = simulate(workers, FREE, sure, [1.0], horizon_s=10.0)
    assert found.duplicates == pytest.approx(1 - 1 / workers)
    # One generation: the parcels out, and what each sends back.
    assert found.bytes_per_s == pytest.approx((workers * 1000.0 + workers * 7 * 100.0) / 10.0)


def test_batches_wait_for_a_supervisor_that_is_too_slow() -> None:
    slow = Costs(100.0, 0.0, 10.0, pack_s=1.0, admit_s=0.0, batch_bytes=0, stream_bytes=0)
    few, many = (simulate(n, slow, [], [RARE], horizon_s=100.0) for n in (5, 40))
    assert (few.supervisor, few.idle) == (0.5, 0.0)
    assert many.supervisor == 1.0
    assert many.idle == pytest.approx(0.75)


def test_a_bug_that_is_never_met_ends_the_simulation_all_the_same() -> None:
    assert simulate(1, FREE, [], [1e-18], horizon_s=10.0).seconds_all == inf


def test_behaviours_get_rarer_as_the_corpus_grew_slower() -> None:
    growth = [(100, 10), (200, 20), (400, 30), (800, 40)]
    rates = rates_of_growth(growth, 80)
    assert len(rates) == 80
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1 / 100
    assert rates[39] == 1 / 800
    assert rates[79] < 1 / 1600
    with pytest.raises(ValueError, match="tells nothing"):
        rates_of_growth([], 10)


def test_a_real_campaign_is_enough_to_simulate_from(tmp_path: Path) -> None:
    installed = Installed.within(tmp_path)
    made = installed.run(
        "run", "planted", "--engine", "native", "--time", "20s", "--out", "sample", "--workers", "1"
    )
    assert made.returncode == 1, made.stderr
    done = installed.run("bench", "scale", "sample", "--workers", "1,10", "--json")
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads(done.stdout)["results"]]
    assert "1-workers-supervisor" in names
    assert "10-workers-all-found" in names
    shown = installed.run("bench", "scale", "sample", "--workers", "1,10")
    assert "10" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    wrong = installed.run("bench", "scale", "sample", "--workers", "0")
    assert wrong.returncode == 2
    installed.run("run", "scripted", "--engine", "native", "--execs", "30", "--out", "short")
    short = installed.run("bench", "scale", "short")
    assert short.returncode == 2
    assert "tells too little" in short.stderr
    nothing = installed.run("bench", "scale", "nowhere")
    assert nothing.returncode == 2
    assert "no folder of a campaign" in nothing.stderr
