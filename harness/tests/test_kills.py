"""kill -9 at any moment: nothing that was announced is lost, and nobody is left behind.

``LOADFUZZ_KILLS=200 pytest harness/tests/test_kills.py`` does it that often; the seed of
chance is in ``LOADFUZZ_KILLS_SEED``.
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from loadfuzz.engines.last_input import executions_of
from loadfuzz.reporters.stats import read_stats
from loadfuzz.repro.folder import finding_folders, read_finding
from loadfuzz.storage import Corpus
from loadfuzz.testing.installed import Installed

KILLS = int(os.environ.get("LOADFUZZ_KILLS", "5"))
SEED = int(os.environ.get("LOADFUZZ_KILLS_SEED", "1"))
REPLAYED = 3 if KILLS < 100 else 1000
"""Findings that are replayed in the end, at most."""
RUN = ("run", "planted", "--engine", "native", "--workers", "2", "--out", "mine", "--no-live")
GONE_S = 20.0
FIRST_LIFE_S = 60.0


class Bench:
    """One campaign that is killed over and over."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self.folder = installed.folder / "mine"
        self.kills: dict[str, int] = {"supervisor": 0, "worker": 0}

    def processes(self) -> list[psutil.Process]:
        """All that were started for this campaign and are alive."""
        site = str(self.installed.folder.parent)
        found = []
        for process in psutil.process_iter():
            try:
                ours = site in process.environ().get("PYTHONPATH", "")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            try:
                if "loadfuzz.engines.worker" in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def live(self, chance: random.Random, left: int) -> int:
        """One life of the supervisor; returns how many kills it saw."""
        process = self.installed.start(*RUN, "--time", "10m")
        kills = 0
        until = time.monotonic() + FIRST_LIFE_S
        while not self.workers():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        while True:
            time.sleep(chance.uniform(0.0, 2.0))
            kills += 1
            workers = self.workers()
            if workers and chance.random() < 0.5 and kills < left:
                self.kills["worker"] += 1
                chance.choice(workers).send_signal(signal.SIGKILL)
                continue
            self.kills["supervisor"] += 1
            process.kill()
            process.communicate(timeout=30)
            return kills

    def check(self) -> None:
        """What must hold whenever the supervisor was killed."""
        until = time.monotonic() + GONE_S
        while left := self.processes():
            assert time.monotonic() < until, left
            time.sleep(0.02)
        present = {}
        for path in finding_folders(self.folder / "findings"):
            present[f"findings/{path.name}"] = read_finding(path)
        for line in (self.folder / "events.ndjson").read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue  # it was being written
            event = json.loads(line)
            if event["event"] == "finding":
                assert present[event["folder"]].signature == event["signature"]
        corpus = Corpus(self.folder / "corpus")
        for digest in corpus.digests():
            corpus.read(digest)


def executions(folder: Path) -> int:
    """Inputs that all runs of a folder have run, by what the last one has told and by the
    files that its workers wrote beside."""
    stats = read_stats(folder)
    told = int(stats["execs_done"])
    for word in stats["loadfuzz_lives"].split():
        worker, _, count = word.partition("=")
        done = executions_of(folder, int(worker))
        told += done - int(count) if done >= int(count) else done
    return told


@pytest.mark.timeout(120 + 12 * KILLS)
def test_a_campaign_that_is_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(Installed.within(tmp_path))
    chance = random.Random(SEED)
    done = 0
    while done < KILLS:
        done += bench.live(chance, KILLS - done)
        bench.check()
    before = executions(bench.folder)
    found = len(finding_folders(bench.folder / "findings"))

    last = bench.installed.run(*RUN, "--execs", "300", "--json")
    assert last.returncode == 1, last.stderr
    bench.check()
    value = json.loads(last.stdout)
    assert value["executions"] == 300
    status = bench.installed.json("status", "mine", "--json")
    findings = finding_folders(bench.folder / "findings")
    assert status["executions"] == before + 300
    assert status["corpus"] == sum(1 for _ in Corpus(bench.folder / "corpus").digests())
    assert len(findings) >= found
    listed = status["findings"]
    assert isinstance(listed, list)
    assert {item["folder"] for item in listed} == {f"mine/findings/{p.name}" for p in findings}
    # What was being written when it was killed is gone, but for what the last run left whole.
    assert not list(bench.folder.rglob(".tmp-*"))
    for line in (bench.folder / "events.ndjson").read_bytes().splitlines():
        json.loads(line)
    chosen = chance.sample(findings, min(REPLAYED, len(findings)))
    again = [path.name for path in chosen if replayed(bench, path).returncode != 1]
    print(f"kills: {bench.kills}, {len(findings)} findings, {before + 300} executions")
    assert again == []


def replayed(bench: Bench, path: Path) -> "subprocess.CompletedProcess[str]":
    return bench.installed.run("replay", str(path))
