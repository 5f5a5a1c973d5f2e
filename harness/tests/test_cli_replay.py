"""``loadfuzz replay`` as people call it."""

import json
import shutil
from pathlib import Path

import pytest

from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

RUN = ("run", "scripted", "--engine", "native", "--workers", "1", "--execs", "30", "--seed", "3")


@pytest.fixture
def finding(installed: Installed) -> Path:
    """A finding's folder, relative to where commands run."""
    value = installed.json(*RUN, **{SEEDS_VARIABLE: "QEVMXabc"})
    findings = value["findings"]
    assert isinstance(findings, list)
    return Path(findings[0]["folder"])


def test_a_finding_reproduces_in_every_way_it_can_be_named(
    installed: Installed, finding: Path
) -> None:
    for path in (finding, finding / "finding.json", finding / "input"):
        done = installed.run("replay", str(path), "-n", "2")
        assert (done.returncode, done.stderr) == (1, "")
        assert "looking for: clean-error at " in done.stdout
        assert "run 1: again: crashed (as far as: nothing): IndexError" in done.stdout
        assert "run 2: again: the same\n" in done.stdout
        assert done.stdout.endswith("\nreproduced 2/2\n")


def test_a_finding_that_was_moved_still_reproduces(installed: Installed, finding: Path) -> None:
    shutil.move(installed.folder / finding, installed.folder / "mine")
    shutil.rmtree(installed.folder / "loadfuzz-out")
    value = installed.json("replay", "mine")
    assert (value["runs"], value["reproduced"]) == (5, 5)


def test_json_tells_each_run(installed: Installed, finding: Path) -> None:
    value = installed.json("replay", str(finding), "-n", "1")
    assert value["target"] == "scripted"
    results = value["results"]
    assert isinstance(results, list)
    assert results[0]["kind"] == "crashed"
    (violation,) = results[0]["violations"]
    assert violation["signature"] == value["signature"]


def test_on_a_target_without_the_bug_it_does_not_reproduce(
    installed: Installed, finding: Path
) -> None:
    done = installed.run("replay", str(finding), "--target", "reference", "-n", "1")
    assert done.returncode == 0
    assert done.stdout.endswith("\nreproduced 0/1\n")


def test_any_stream_may_be_replayed(installed: Installed) -> None:
    (installed.folder / "good").write_bytes(b"QEVMgood")
    (installed.folder / "bad").write_bytes(b"QEVMX")
    (installed.folder / "empty").write_bytes(b"")
    good = installed.run("replay", "good", "--target", "scripted", "-n", "1")
    bad = installed.run("replay", "bad", "--target", "scripted", "-n", "1")
    empty = installed.run("replay", "empty", "-n", "1")
    assert (good.returncode, bad.returncode, empty.returncode) == (0, 1, 0)
    assert "run 1: fine: accepted" in good.stdout
    assert "an oracle objected 1/1" in bad.stdout
    assert "run 1: fine: rejected" in empty.stdout


def test_what_is_no_finding_is_refused_with_the_reason(installed: Installed, finding: Path) -> None:
    folder = installed.folder
    (folder / "empty").mkdir()
    for name, change in {
        "newer": '{"format_version": 4}',
        "damaged": '{"format_version": 1, "target": 5}',
    }.items():
        shutil.copytree(folder / finding, folder / name)
        (folder / name / "finding.json").write_text(change)
    shutil.copytree(folder / finding, folder / "torn")
    (folder / "torn" / "input").write_bytes(b"QEVM")
    shutil.copytree(folder / finding, folder / "orphan")
    manifest = json.loads((folder / "orphan" / "finding.json").read_text())
    (folder / "orphan" / "finding.json").write_text(json.dumps({**manifest, "target": "gone"}))
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for path, words in (
        ("empty", "empty is no finding: it has no file 'finding.json'"),
        ("newer", "has format 4, which is newer than this loadfuzz knows (3); update loadfuzz"),
        ("damaged", "newer/finding.json is damaged: ".replace("newer", "damaged")),
        ("torn", "was changed or torn (4 bytes, "),
        ("orphan", "no target 'gone'"),
        ("huge", "huge has 1,099,511,627,776 bytes"),
        (str(finding.parent.parent), "is a campaign; replay one of its findings: "),
        (str(finding.parent), "is no finding"),
    ):
        done = installed.run("replay", path)
        assert (done.returncode, done.stdout) == (2, ""), path
        assert words in done.stderr, path


def test_a_campaign_without_findings_says_so(installed: Installed) -> None:
    installed.run(*RUN)
    done = installed.run("replay", "loadfuzz-out/scripted-001")
    assert "replay one of its findings: it has none" in done.stderr
