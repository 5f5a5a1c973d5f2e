"""The coverage of a corpus names what is not reached, and says what it cannot do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadfuzz.corpus.streams import streams_in
from loadfuzz.coverage.branches import guard_of, read
from loadfuzz.errors import UsageError
from loadfuzz.plugins import load_target

TIMEOUT_S = 120
SOURCE = """\
class Nic:
    def check(self, s):
        if s.in_use > s.capacity:
            return 1
        while True:
            return 0
"""


def coverage(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadfuzz", "coverage", *arguments],
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip


def test_an_unreached_branch_has_its_condition_place_and_guard(tmp_path: Path) -> None:
    path = tmp_path / "nic.py"
    path.write_text(SOURCE)
    report = {
        "files": {
            str(path): {
                "summary": {"num_branches": 2, "covered_branches": 1},
                "missing_branches": [[3, 4]],
            }
        },
        "totals": {"num_branches": 2, "covered_branches": 1},
    }
    found = read(json.dumps(report).encode())
    (branch,) = found.branches
    assert (branch.line, branch.to, branch.place) == (3, 4, "Nic.check")
    assert branch.condition == "if s.in_use > s.capacity:"
    assert branch.guard == "in_use, capacity"
    assert (found.covered, found.total) == (1, 2)


@pytest.mark.parametrize(
    ("condition", "guard"),
    [("f.profile.strict", "strict, profile"), ("count < 3", "count"), ("True", "-")],
)
def test_a_guard_is_what_the_condition_names(condition: str, guard: str) -> None:
    assert guard_of(ast.parse(condition, mode="eval").body) == guard


def test_a_line_without_a_condition_has_no_guard() -> None:
    assert guard_of(None) == "-"


def test_streams_are_files_and_those_in_folders_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/one", "a/manifest.json", "two.stream"):
        (tmp_path / name).write_bytes(b"QEVM")
    found = streams_in([tmp_path / "a", tmp_path / "two.stream"])
    assert [path.name for path in found] == ["one", "two.stream"]


def test_what_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no file and no folder"):
        streams_in([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no streams in"):
        streams_in([tmp_path])


def test_one_stream_reaches_less_than_all_seeds_and_html_is_written(tmp_path: Path) -> None:
    seeds = {seed.name: seed.stream for seed in load_target("reference").seeds()}
    (tmp_path / "one").write_bytes(seeds["none-ran"])
    one = coverage("one", "--json", "--html", "html", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    few = json.loads(one.stdout)
    more = json.loads(coverage("--json", cwd=tmp_path).stdout)
    assert 0 < few["covered"] < more["covered"] < more["total"] == few["total"]
    assert any(branch["guard"] != "-" for branch in few["branches"])
    assert "loadfuzz: reference" in (tmp_path / "html" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "is no file and no folder"),
        (["--only", "nope"], 2, "--only nope: no such file was measured"),
        (["--target", "no-such-target"], 2, "no target 'no-such-target'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = coverage(*arguments, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
