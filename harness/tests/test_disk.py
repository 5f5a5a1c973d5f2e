"""Real disks: one that is full, one that cannot be written, one that lies."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from loadfuzz.inputs import digest_of
from loadfuzz.repro.folder import finding_folders, read_finding
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

RUN = ("run", "planted", "--engine", "native", "--workers", "2", "--no-live")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@needs_root
def test_a_disk_that_fills_up_ends_the_campaign_with_words_and_findings_intact(
    installed: Installed, small_disk: Path
) -> None:
    done = installed.run(*RUN, "--time", "100s", "--json", "--out", str(small_disk / "mine"))
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr or "is full" in done.stderr
    assert "make room" in done.stderr
    assert "Findings so far are kept" in done.stderr
    assert "Traceback" not in done.stderr
    folders = finding_folders(small_disk / "mine" / "findings")
    assert folders
    for folder in folders:
        read_finding(folder)
    announced = {item["signature"] for item in json.loads(done.stdout)["findings"]}
    assert announced == {read_finding(folder).signature for folder in folders}
    assert installed.run("replay", str(folders[0])).returncode in {0, 1}

    # With room again, it goes on where it was.
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = installed.run(*RUN, "--execs", "200", "--json", "--out", str(small_disk / "mine"))
    assert again.returncode == 1, again.stderr
    assert json.loads(again.stdout)["executions"] == 200
    for line in (small_disk / "mine" / "events.ndjson").read_bytes().splitlines():
        json.loads(line)


@needs_root
def test_a_disk_that_becomes_read_only_ends_the_campaign_with_words(
    installed: Installed, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    first = installed.run(*RUN, "--execs", "200", "--json", "--out", str(small_disk / "mine"))
    assert first.returncode == 1, first.stderr
    before = {path.name for path in finding_folders(small_disk / "mine" / "findings")}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = installed.run(*RUN, "--execs", "200", "--out", str(small_disk / "mine"))
    assert done.returncode == 3, done.stderr
    assert "Read-only file system; name a folder that you may write to" in done.stderr
    assert "Findings so far are kept" in done.stderr
    assert "Traceback" not in done.stderr
    folders = finding_folders(small_disk / "mine" / "findings")
    assert {path.name for path in folders} == before
    # To look needs no writing.
    assert installed.run("status", str(small_disk / "mine")).returncode == 1
    assert installed.run("replay", str(folders[0])).returncode in {0, 1}


def test_an_entry_that_lost_its_content_goes_to_quarantine_and_is_named(
    installed: Installed,
) -> None:
    mine = ("run", "scripted", "--engine", "native", "--out", "mine", "--json")
    seeds = {SEEDS_VARIABLE: "QEVMXabc,QEVMabc"}
    installed.run(*mine, "--execs", "50", **seeds)
    torn = installed.folder / "mine" / "corpus" / digest_of(b"QEVMabc")
    torn.write_bytes(b"QEVM")
    value = installed.json(*mine, "--execs", "50", **seeds)
    warnings = value["warnings"]
    assert isinstance(warnings, list)
    named = [text for text in warnings if digest_of(b"QEVMabc") in text]
    assert len(named) == 1
    assert "in quarantine/ now" in named[0]
    kept = installed.folder / "mine" / "quarantine" / digest_of(b"QEVMabc")
    assert kept.read_bytes() == b"QEVM"
    # The seed was given again.
    assert torn.read_bytes() == b"QEVMabc"
