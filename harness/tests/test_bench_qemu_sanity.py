"""Good streams, again and again: what is measured of them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loadfuzz.bench.qemu_sanity import PROFILES, _children, _figures, _Run, measure
from loadfuzz.testing import fake_qemu

MIB = 1 << 20
PARTS = ("loads", "refused", "qemu-growth", "own-growth", "left")


def values(loads: int, run: _Run) -> dict[str, tuple[float, float]]:
    return {
        figure.name.removeprefix("pc-"): (figure.value, figure.ratio)
        for figure in _figures("pc", loads, run)
    }


def test_a_run_that_went_well_reaches_all_goals() -> None:
    run = _Run(seconds=2.0, qemu_before=50 * MIB, qemu_after=52 * MIB)
    found = _figures("pc", 100, run)
    assert [figure.name for figure in found] == [f"pc-{part}" for part in PARTS]
    assert found[0].value == 50.0
    assert found[2].value == 2.0
    assert all(figure.goal is not None and figure.ratio >= figure.goal for figure in found)


def test_whatever_goes_wrong_misses_a_goal() -> None:
    run = _Run(
        refused=1, seconds=1.0, qemu_after=65 * MIB, own_after=9 * MIB, left=2, first="load 7: x"
    )
    found = _figures("pc", 100, run)
    assert all(figure.goal is not None and figure.ratio < figure.goal for figure in found)
    assert values(100, run)["refused"] == (1.0, 0.99)
    assert values(100, run)["left"][0] == 2.0
    assert "load 7: x" in found[0].note


def test_a_child_is_seen_until_somebody_has_waited_for_it() -> None:
    before = _children()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    assert _children() - before == {child.pid}
    child.wait()
    assert _children() == before


@pytest.mark.parametrize(("manner", "refused"), [("", 0), ("refuse", 12), ("exit", 12)])
def test_each_profile_is_loaded_as_often_as_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str, refused: int
) -> None:
    # A Unix socket's name has to be short.
    folder = tempfile.mkdtemp(prefix="lfq-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setenv("FAKE_QEMU", manner)
    program = tmp_path / "qemu"
    program.write_text(f"#!{sys.executable}\n" + Path(fake_qemu.__file__).read_text())
    program.chmod(0o700)
    try:
        found = {figure.name: figure for figure in measure(12, str(program))}
        assert os.listdir(folder) == []
    finally:
        os.rmdir(folder)
    assert list(found) == [f"{name}-{part}" for name in PROFILES for part in PARTS]
    assert [found[f"{name}-refused"].value for name in PROFILES] == [refused] * len(PROFILES)
    assert [found[f"{name}-left"].value for name in PROFILES] == [0.0] * len(PROFILES)
