"""Several runs that share a folder."""

import json
import os
import time
from pathlib import Path

import pytest

from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.shard import Shard, open_shard, parse_shard
from loadfuzz.errors import UsageError
from loadfuzz.repro.folder import finding_folders
from loadfuzz.storage import Corpus
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

RUN = ("run", "scripted", "--engine", "native", "--workers", "1", "--out", "shared")


def test_shards_share_their_corpus_and_their_findings(installed: Installed) -> None:
    first = installed.json(
        *RUN, "--shard", "1/3", "--execs", "301", "--json", **{SEEDS_VARIABLE: "QEVMXabc"}
    )
    assert first["executions"] == 101
    assert first["findings"]
    shared = installed.folder / "shared"
    # What the second finds is the first one's already.
    done = installed.run(*RUN, "--shard", "2/3", "--execs", "301", "--json",
                         **{SEEDS_VARIABLE: "QEVMRabc"})  # fmt: skip
    assert done.returncode == 1, done.stderr
    second = json.loads(done.stdout)
    assert second["executions"] == 100
    assert {path.name for path in shared.iterdir()} == {
        "corpus", "findings", "shards", "store.json",
    }  # fmt: skip
    assert {path.name for path in (shared / "shards").iterdir()} == {"1-of-3", "2-of-3"}
    found = first["findings"]
    assert isinstance(found, list)
    signatures = [finding["signature"] for finding in second["findings"]]
    assert len(set(signatures)) == len(finding_folders(shared / "findings"))
    assert {item["signature"] for item in found} <= set(signatures)
    # It began from what both have.
    assert second["corpus"] >= int(str(first["corpus"])) + 1
    assert sum(1 for _ in Corpus(shared / "corpus").digests()) == second["corpus"]
    assert installed.run("replay", second["findings"][0]["folder"]).returncode == 1


def test_shards_at_the_same_time_do_not_disturb_each_other(installed: Installed) -> None:
    seeds = {SEEDS_VARIABLE: "QEVMXabc,QEVMabc"}
    running = [
        installed.start(*RUN, "--shard", f"{index}/2", "--execs", "3000", "--json", **seeds)
        for index in (1, 2)
    ]
    results = []
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        results.append(json.loads(out))
    assert [result["executions"] for result in results] == [1500, 1500]
    assert results[0]["seed"] != results[1]["seed"]
    assert all(result["error"] == "" for result in results)
    shared = installed.folder / "shared"
    for digest in Corpus(shared / "corpus").digests():
        Corpus(shared / "corpus").read(digest)


def test_the_same_shard_twice_at_a_time_is_refused(installed: Installed) -> None:
    process = installed.start(*RUN, "--shard", "1/2", "--time", "10m")
    lock = installed.folder / "shared" / "shards" / "1-of-2" / "campaign.json"
    until = time.monotonic() + 60
    while not lock.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    done = installed.run(*RUN, "--shard", "1/2", "--time", "5s")
    assert done.returncode == 2
    assert "another campaign is running" in done.stderr
    process.terminate()
    process.communicate(timeout=60)


def test_status_of_a_shared_folder_adds_its_shards_up(installed: Installed) -> None:
    for index in (1, 2):
        installed.run(*RUN, "--shard", f"{index}/2", "--execs", "100",
                      **{SEEDS_VARIABLE: "QEVMXabc"})  # fmt: skip
    status = installed.json("status", "shared", "--json")
    assert status["executions"] == 100
    assert status["workers"] == 2
    assert status["state"] == "budget"
    findings = status["findings"]
    assert isinstance(findings, list)
    assert len(findings) == len(finding_folders(installed.folder / "shared" / "findings"))
    shards = status["shards"]
    assert isinstance(shards, list)
    assert [(shard["name"], shard["executions"]) for shard in shards] == [
        ("1-of-2", 50), ("2-of-2", 50),
    ]  # fmt: skip
    shown = installed.run("status", "shared").stdout
    assert "scripted: 2 shards, 0 running\n" in shown
    assert "  2-of-2       budget " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "0/2", "--out", "shared"), "there is no shard 0 of 2"),
        (("--shard", "3/2", "--out", "shared"), "there is no shard 3 of 2"),
        (("--shard", "two", "--out", "shared"), "'two' is no shard"),
        (("--shard", "1/2"), "give the same --out"),
        (("--shard", "1/2", "--out", "shared", "--fresh"), "no --fresh"),
        (("--shard", "3/3", "--out", "shared", "--execs", "2"), "leaves nothing for shard 3/3"),
    ],
)
def test_a_shard_that_makes_no_sense_is_an_error_of_use(
    installed: Installed, arguments: tuple[str, ...], said: str
) -> None:
    done = installed.run("run", "scripted", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (installed.folder / "shared").exists()


def test_each_shard_has_its_part_of_the_budget_and_chance_of_its_own() -> None:
    whole = Settings("scripted", None, 7, 1, None, 10)
    parts = [Shard(index, 3).settings(whole) for index in (1, 2, 3)]
    assert [part.executions for part in parts] == [4, 3, 3]
    assert len({part.seed for part in parts}) == 3
    assert parts[0] == Shard(1, 3).settings(whole)
    assert parse_shard("2/8") == Shard(2, 8)


def test_a_folder_that_is_something_else_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files in it"):
        open_shard(tmp_path, Shard(1, 2), "scripted")
    assert os.listdir(tmp_path) == ["notes.txt"]
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "campaign.json").write_text("{}")
    with pytest.raises(UsageError, match="a campaign that is no shard"):
        open_shard(tmp_path / "campaign", Shard(1, 2), "scripted")
    open_shard(tmp_path / "store", Shard(1, 2), "scripted")
    with pytest.raises(UsageError, match="fuzz 'scripted'"):
        open_shard(tmp_path / "store", Shard(2, 2), "planted")
    (tmp_path / "store" / "store.json").write_text('{"format_version": 99, "target": "scripted"}')
    with pytest.raises(UsageError, match="newer loadfuzz"):
        open_shard(tmp_path / "store", Shard(2, 2), "scripted")
