"""A campaign's numbers for other tools, and a campaign from outside."""

import fcntl
import json
import signal
import threading
import time
from pathlib import Path

import pytest

from loadfuzz import events
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.campaign.folder import open_folder
from loadfuzz.campaign.resume import notice_unannounced
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import ManualClock
from loadfuzz.engines.last_input import LastInput
from loadfuzz.errors import UsageError
from loadfuzz.events import Event
from loadfuzz.reporters.stats import EVERY_S, StatsFiles, read_stats
from loadfuzz.reporters.status import status_of
from loadfuzz.storage import FolderLock
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

NOW = 1_700_000_000
RUN = ("run", "scripted", "--engine", "native", "--workers", "1", "--seed", "3", "--out", "mine")


class Campaign:
    """Events, and the files that come of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.totals, self.clock = Totals(), ManualClock()
        self.files = StatsFiles(folder, self.totals, self.clock, lambda: NOW + self.clock.now_s())
        self.files.start()

    def hear(self, *heard: Event) -> None:
        for event in heard:
            self.totals.add(event)
            self.files.handle(event)

    def begin(self) -> "Campaign":
        self.hear(
            events.CampaignStarted('fa"ke', "native", 7, 2, "out", 12, 60.0, None),
            events.WorkerStarted(0, 1),
        )
        return self

    def progress(self, executions: int) -> None:
        self.hear(events.Progress(0, executions, 3, {"header": executions}, {}, {}, {}))

    def rows(self) -> list[list[str]]:
        lines = (self.folder / "stats" / "plot_data").read_text().splitlines()
        assert lines[0].startswith("# relative_time, cycles_done")
        assert not any(line.startswith("#") for line in lines[1:])
        return [line.split(", ") for line in lines[1:]]


def alarm(oracle: str) -> events.FindingAnnounced:
    return events.FindingAnnounced(
        0, f"{oracle}:x", oracle, "t", "p", f"findings/{oracle}", 9, (3, 3)
    )


def end(reason: str) -> events.CampaignEnded:
    return events.CampaignEnded(0, 10.0, 0, 0, reason)


def test_the_files_have_what_afls_tools_look_for(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path).begin()
    campaign.clock.advance(10)
    campaign.progress(500)
    campaign.hear(events.CorpusAdded(0, "a" * 64, 10, 5, ()), alarm("footer"), alarm("no-hang"))
    campaign.files.tick()
    stats = read_stats(tmp_path)
    assert {key: stats[key] for key in ("start_time", "run_time", "execs_done", "execs_per_sec",
            "corpus_count", "corpus_found", "saved_crashes", "saved_hangs", "last_find",
            "loadfuzz_state")} == {
        "start_time": str(NOW), "run_time": "10", "execs_done": "500", "execs_per_sec": "50.00",
        "corpus_count": "13", "corpus_found": "1", "saved_crashes": "1", "saved_hangs": "1",
        "last_find": str(NOW + 10), "loadfuzz_state": "running",
    }  # fmt: skip
    text = (tmp_path / "stats" / "fuzzer_stats").read_text()
    assert all(
        line[17:20] == " : " for line in text.splitlines() if line[0] != "l" or "_find" in line
    )
    assert [len(row) for row in campaign.rows()] == [13, 13]
    assert campaign.rows()[1][11] == "500"


def test_prometheus_can_read_its_file(tmp_path: Path) -> None:
    Campaign(tmp_path).begin()
    lines = (tmp_path / "stats" / "loadfuzz.prom").read_text().splitlines()
    values = [line for line in lines if not line.startswith("#")]
    assert 'loadfuzz_running{target="fa\\"ke"} 1' in values
    for line in values:
        name = line.partition("{")[0]
        assert f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}" in lines


def test_numbers_are_written_every_so_often_and_not_at_every_tick(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path).begin()
    for _ in range(40):
        campaign.clock.advance(EVERY_S / 4)
        campaign.files.tick()
    assert len(campaign.rows()) == 11


def test_a_resumed_campaign_counts_on(tmp_path: Path) -> None:
    first = Campaign(tmp_path).begin()
    first.clock.advance(100)
    first.progress(1000)
    first.hear(end("interrupted"))
    second = Campaign(tmp_path)
    second.clock.advance(5000)
    second.begin()
    second.clock.advance(50)
    second.progress(200)
    second.hear(end("budget"))
    stats = read_stats(tmp_path)
    assert (stats["execs_done"], stats["run_time"]) == ("1200", "150")
    assert stats["start_time"] == str(NOW)
    assert stats["loadfuzz_state"] == "budget"
    assert [row[11] for row in second.rows()] == ["0", "1000", "1000", "1200"]


def test_what_a_killed_run_could_not_tell_any_more_counts(tmp_path: Path) -> None:
    first = Campaign(tmp_path).begin()
    first.hear(events.WorkerStarted(1, 2), events.Progress(1, 40, 3, {}, {}, {}, {}))
    first.progress(1000)
    first.clock.advance(EVERY_S)
    first.files.tick()
    for worker, done, running in ((0, 1234, True), (1, 7, False)):
        batch = Batch("fake", Engine.NATIVE, str(tmp_path), worker, 1, None, None)
        last = LastInput(tmp_path, batch)
        last.begin(b"QEVM", done)
        if not running:
            last.end()
    second = Campaign(tmp_path).begin()
    second.hear(end("budget"))
    # Worker 0 went on to 1233; worker 1 was another process by then, which did 7.
    assert read_stats(tmp_path)["execs_done"] == str(1233 + 40 + 7)


@pytest.mark.parametrize("text", ["", "execs_done\n", "execs_done : -5\nrun_time : x\n", "\udc80"])
def test_damaged_numbers_count_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats" / "fuzzer_stats").write_bytes(text.encode(errors="surrogateescape"))
    campaign = Campaign(tmp_path).begin()
    campaign.progress(7)
    campaign.hear(end("budget"))
    assert read_stats(tmp_path)["execs_done"] == "7"


# -- loadfuzz status --------------------------------------------------------------------------


def test_a_campaign_is_shown_while_it_runs_after_and_when_it_died(installed: Installed) -> None:
    with installed.start(*RUN, "--time", "60s", **{SEEDS_VARIABLE: "QEVMXabc"}) as process:
        try:
            out = installed.folder / "mine"
            until = time.monotonic() + 60
            while "execs_done" not in read_stats(out) and time.monotonic() < until:
                time.sleep(0.05)
            running = installed.json("status", "mine")
            assert (running["state"], running["target"]) == ("running", "scripted")
            assert running["pid"] == process.pid
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate(timeout=60)
    assert installed.json("status", "mine")["state"] == "died"
    done = installed.run(*RUN, "--execs", "30", **{SEEDS_VARIABLE: "QEVMXabc"})
    assert done.returncode == 1, done.stderr
    value = installed.json("status", "mine")
    assert value["state"] == "budget"
    assert isinstance(value["executions"], int)
    assert value["executions"] >= 30
    shown = installed.run("status", "mine")
    assert shown.returncode == 1
    assert "scripted: ended: budget" in shown.stdout
    findings = value["findings"]
    assert isinstance(findings, list)
    for finding in findings:
        assert f"loadfuzz replay {finding['folder']}" in shown.stdout


def test_a_finding_that_cannot_be_read_is_listed_with_the_reason(installed: Installed) -> None:
    installed.run(*RUN, "--execs", "30", **{SEEDS_VARIABLE: "QEVMXabc"})
    (folder, *_) = sorted((installed.folder / "mine" / "findings").iterdir())
    (folder / "finding.json").write_text("{")
    status = status_of(installed.folder / "mine")
    assert [bool(finding.error) for finding in status.findings][:1] == [True]
    shown = installed.run("status", "mine")
    assert str(folder.name) in shown.stdout


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_is_no_campaign_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no folder of a campaign"):
        status_of(tmp_path / name)


# -- other ends of a campaign -----------------------------------------------------------------


def test_a_campaign_can_end_at_its_first_finding(installed: Installed) -> None:
    done = installed.run(*RUN, "--first-finding", "--json", **{SEEDS_VARIABLE: "QEVMXabc"})
    assert done.returncode == 1, done.stderr
    value = json.loads(done.stdout)
    assert value["reason"] == "first-finding"
    assert value["seconds"] < 30


def test_a_campaign_can_end_when_it_shows_nothing_new(installed: Installed) -> None:
    done = installed.run(*RUN, "--until-stale", "1s", "--json")
    value = json.loads(done.stdout)
    assert value["reason"] == "stale", done.stderr
    assert value["seconds"] >= 1
    assert value["executions"] > value["corpus"]
    assert done.returncode == (1 if value["findings"] else 0)


def test_a_finding_that_is_being_written_is_none_yet(installed: Installed) -> None:
    installed.run(*RUN, "--execs", "30")
    (installed.folder / "mine" / "findings" / ".tmp-1-abc").mkdir()
    assert installed.run("status", "mine").returncode == 0


def test_looking_at_a_campaign_keeps_none_from_starting(installed: Installed) -> None:
    installed.run(*RUN, "--execs", "30")
    with (installed.folder / "mine" / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, file.close)
        timer.start()
        with FolderLock(installed.folder / "mine" / "lock"):
            pass
        timer.join()


def test_what_a_worker_wrote_and_did_not_announce_is_a_finding(installed: Installed) -> None:
    installed.run(*RUN, "--execs", "30", **{SEEDS_VARIABLE: "QEVMXabc"})
    mine = open_folder(installed.folder / "mine", "scripted")
    totals = Totals()
    totals.add(events.FindingRepeated(1, "clean-error:x", 1))
    assert totals.ignored() == {}
    notice_unannounced(mine, totals)
    assert totals.findings
    assert not totals.known


def test_preparation_is_no_time_of_fuzzing(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    campaign.hear(events.CampaignStarted("fake", "native", 7, 1, "out", 12, 60.0, None))
    campaign.clock.advance(90)
    campaign.hear(events.WorkerStarted(0, 1))
    campaign.clock.advance(EVERY_S)
    campaign.progress(50)
    campaign.files.tick()
    assert [row[0] for row in campaign.rows()] == ["0", "5"]
    assert read_stats(tmp_path)["execs_done"] == "50"
