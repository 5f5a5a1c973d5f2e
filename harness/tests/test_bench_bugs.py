"""Known bugs are met when they are met, compared fairly, and the command says what it did."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from matplotlib import rc_context

from loadfuzz.bench.bugs.comparison import compare
from loadfuzz.bench.bugs.fuzzers import FUZZERS, fuzzer_named
from loadfuzz.bench.bugs.meetings import First, Ledger, Meeting, united
from loadfuzz.bench.bugs.picture import draw
from loadfuzz.bench.bugs.running import results_in
from loadfuzz.bench.bugs.trial import TrialResult
from loadfuzz.bench.truth import BugRow, Met
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.findings import Violation

ROW = BugRow("one", "B01", "cpu", "x", "a value", "invariants", r"^cpu/x", "CVE-0")
OTHER = replace(ROW, name="two", oracle="atomic", evidence="nic")
ALARM = Violation("invariants", "", "", "", "cpu/x")
NOTHING = Met(frozenset(), frozenset())
TIMEOUT_S = 120


def bugs(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadfuzz", "bench", "bugs", *arguments],
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip


# -- meetings ---------------------------------------------------------------------------------


def test_a_bug_is_detected_when_its_oracle_rings_while_it_is_triggered() -> None:
    clock = iter((1.0, 2.0, 3.0, 4.0))
    ledger = Ledger([ROW, OTHER], lambda: next(clock))
    ledger.settle(Met(frozenset({"one"}), frozenset()), 1)
    ledger.hear(ALARM)
    ledger.settle(NOTHING, 2)  # it rang, and the bug was not triggered
    ledger.settle(Met(frozenset({"one"}), frozenset({"one"})), 3)  # triggered in silence
    ledger.hear(replace(ALARM, path="nic/x"))
    ledger.hear(ALARM)
    ledger.settle(Met(frozenset({"one"}), frozenset({"one"})), 4)
    one, two = ledger.meetings()
    assert one == Meeting("one", First(1.0, 1), First(3.0, 3), First(4.0, 4))
    assert two == Meeting("two")
    assert (ledger.detected, ledger.complete) == (("one",), False)


@pytest.mark.parametrize(
    "alarm", [replace(ALARM, oracle="atomic"), replace(ALARM, path="nic/x")],
    ids=["another oracle", "another place"],
)  # fmt: skip
def test_the_wrong_oracle_or_place_detects_nothing(alarm: Violation) -> None:
    ledger = Ledger([ROW], lambda: 1.0)
    ledger.hear(alarm)
    ledger.settle(Met(frozenset({"one"}), frozenset({"one"})), 1)
    assert ledger.meetings()[0].detected is None


def test_workers_of_one_trial_share_what_they_met() -> None:
    first = Meeting("one", First(1.0, 5), None, None)
    second = Meeting("one", First(2.0, 3), First(4.0, 9), None)
    assert united([first, second]) == Meeting("one", First(1.0, 5), First(4.0, 9), None)


# -- comparing --------------------------------------------------------------------------------


def trial(fuzzer: str, number: int, *detected_s: float | None) -> TrialResult:
    firsts = [None if s is None else First(s, 100) for s in detected_s]
    meetings = tuple(
        Meeting(row.name, First(0.1, 1), first, first)
        for row, first in zip((ROW, OTHER), firsts, strict=True)
    )
    return TrialResult(fuzzer, number, 1, 100, 10.0, 7, meetings)


RESULTS = [
    *(trial("ours", number, 1.0, 2.0) for number in range(10)),
    *(trial("theirs", number, 4.0, None) for number in range(10)),
]


def test_a_comparison_has_times_effect_sizes_and_what_only_one_finds() -> None:
    found = compare([ROW, OTHER], RESULTS, ["ours", "theirs"], 20.0)
    ours, theirs = found.fuzzers
    assert (ours.detected, ours.mean_time_s, ours.complete_s, ours.alone) == (2, 1.5, 2, ("two",))
    assert (theirs.detected, theirs.mean_time_s, theirs.complete_s) == (1, 12.0, None)
    (contest,) = found.contests
    assert (contest.time_ratio, contest.a12_time, contest.a12_detected) == (8.0, 1.0, 1.0)
    assert contest.p_time == pytest.approx(2 / 184_756)
    assert [row.detected for row in found.rows] == [10, 10, 10, 0]
    assert found.rows[3].seconds_detected == 20.0
    assert found.figures()[-1].ratio == 8.0


def test_fuzzers_that_have_not_run_are_left_out() -> None:
    found = compare([ROW, OTHER], RESULTS[:10], ["ours", "absent"], 20.0)
    assert [row.fuzzer for row in found.fuzzers] == ["ours"]
    assert found.contests == ()


def test_a_picture_is_drawn_and_another_suffix_is_refused(tmp_path: Path) -> None:
    draw(RESULTS, ["ours", "theirs"], 20.0, tmp_path / "curves.svg")
    with rc_context({"svg.fonttype": "none"}):
        draw(RESULTS, ["ours", "theirs"], 20.0, tmp_path / "words.svg")
    assert "theirs (10 trials)" in (tmp_path / "words.svg").read_text()
    with pytest.raises(UsageError, match="is no"):
        draw(RESULTS, ["ours"], 20.0, tmp_path / "curves.doc")


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes-0.json").write_text("{}")
    with pytest.raises(InfraError, match=r"bytes-0\.json holds no trial"):
        results_in(tmp_path)


def test_a_fuzzer_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no fuzzer 'afl'; there are structure"):
        fuzzer_named("afl")


# -- the command ------------------------------------------------------------------------------


def test_the_list_has_every_bug(tmp_path: Path) -> None:
    done = bugs("--list", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)["bugs"]
    assert len(rows) == 46
    assert {"name", "bug_class", "oracle", "mirrors"} <= rows[0].keys()


FAST = ["structure", "raw", *(["zzuf"] if shutil.which("zzuf") else [])]
ATHERIS = ["bytes+dict", "hypothesis"] if find_spec("atheris") is not None else []


@pytest.mark.parametrize("name", [*FAST, *ATHERIS])
def test_each_fuzzer_runs_its_budget_through_the_same_loader(name: str, tmp_path: Path) -> None:
    done = bugs("--fuzzer", name, "--execs", "60", "--json", "--out", "bench", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert len(value["rows"]) == 46
    assert value["rows"][0].keys() >= {"bug", "fuzzer", "reached", "triggered", "detected"}
    assert sum(row["reached"] for row in value["rows"]) > 30
    (result,) = results_in(tmp_path / "bench")
    assert result.executions == 60


def test_trials_that_are_there_are_not_run_again_and_can_be_shown(tmp_path: Path) -> None:
    first = bugs("--execs", "45", "--out", "bench", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "bench" / "structure-0.json").read_bytes()
    again = bugs("--execs", "45", "--out", "bench", cwd=tmp_path)
    assert (tmp_path / "bench" / "structure-0.json").read_bytes() == before
    assert "ended after" not in again.stderr
    shown = bugs("--report", "--out", "bench", cwd=tmp_path)
    assert "structure" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_a_folder_says_how_its_trials_were_run(tmp_path: Path) -> None:
    first = bugs("--time", "3s", "--out", "bench", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    shown = bugs("--report", "--out", "bench", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout) == json.loads(first.stdout)
    other = bugs("--time", "4s", "--seed", "9", "--out", "bench", cwd=tmp_path)
    assert other.returncode == 2
    assert "were run with seed 1, not 9; seconds 3.0, not 4.0" in " ".join(other.stderr.split())


def test_a_report_has_the_fuzzers_that_came_later(tmp_path: Path) -> None:
    for name in ("structure", "raw"):
        bugs("--execs", "45", "--fuzzer", name, "--out", "bench", cwd=tmp_path)
    for more, shown in ([], {"structure", "raw"}), (["--fuzzer", "raw"], {"raw"}):
        done = bugs("--report", "--json", *more, "--out", "bench", cwd=tmp_path)
        assert {row["fuzzer"] for row in json.loads(done.stdout)["rows"]} == shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "file"], "name a new folder"),
        (["--out", "other"], "holds other files"),
        (["--out", "/proc/nowhere"], "name a new folder"),
        (["--picture", "curves.gif"], "is no .pdf, .png, .svg file"),
        (["--picture", "nowhere/curves.png"], "there is no folder nowhere"),
        (["--fuzzer", "afl"], "no fuzzer 'afl'"),
        (["reference"], "does not know its bugs"),
        (["--report"], "--report needs --out"),
        (["--report", "--out", "nowhere"], "is no folder of results"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("")
    done = bugs(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_every_fuzzer_says_what_it_is() -> None:
    assert len({fuzzer.name for fuzzer in FUZZERS}) == len(FUZZERS)
    assert all(fuzzer.summary for fuzzer in FUZZERS)
