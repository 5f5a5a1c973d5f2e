"""``bench qemu``: what is measured, and that it is measured on a real QEMU."""

import json

import pytest

from loadfuzz.bench import qemu
from loadfuzz.qemu.profiles import profiles
from loadfuzz.testing.installed import Installed


@pytest.mark.qemu
def test_each_way_into_a_qemu_is_measured_against_its_baseline(
    qemu_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "TURNS", 1)
    monkeypatch.setattr(qemu, "TURN_S", 0.3)
    figures = {item.name: item for item in qemu.measure("none", profiles()["none"].spec())}
    assert set(figures) == {"none-persistent", "none-bare", "none-incoming"}
    for item in figures.values():
        assert item.value > 0
        assert item.ratio == pytest.approx(item.value / item.baseline)
    assert figures["none-persistent"].value == figures["none-bare"].value


def test_a_ratio_compares_what_was_measured_side_by_side() -> None:
    # The machine was twice as slow for a while: that falls on both.
    rates = {
        "persistent": [90.0, 45.0, 44.0],
        "bare": [100.0, 50.0, 50.0],
        "fresh": [9.0, 5.0, 4.0],
        "incoming": [27.0, 10.0, 12.0],
    }
    found = {item.name: item for item in qemu._figures("pc", rates)}
    assert found["pc-bare"].ratio == pytest.approx(0.9)
    assert (found["pc-bare"].value, found["pc-bare"].baseline) == (45.0, 50.0)
    assert found["pc-persistent"].ratio == pytest.approx(10.0)
    assert found["pc-incoming"].ratio == pytest.approx(3.0)


def test_a_profile_that_is_none_is_named_with_those_there_are(installed: Installed) -> None:
    done = installed.run("bench", "qemu", "--profile", "pdp11", "--json")
    assert done.returncode == 2
    assert "no profile 'pdp11'; there are none, microvm" in done.stderr


def test_a_binary_that_is_missing_says_so(installed: Installed) -> None:
    done = installed.run("bench", "qemu", "--profile", "none", "--qemu", "./gone")
    assert done.returncode in (2, 3)
    assert "cannot run './gone'" in done.stderr


@pytest.mark.qemu
def test_good_streams_are_loaded_over_and_over(qemu_binary: str, installed: Installed) -> None:
    done = installed.run("bench", "qemu", "--sanity", "100", "--json")
    assert done.returncode == 0, done.stderr
    figures = {item["name"]: item["value"] for item in json.loads(done.stdout)["results"]}
    assert figures
