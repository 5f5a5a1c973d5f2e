"""``loadfuzz run`` end to end, on a target that does as its input says."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.repro.folder import read_finding
from loadfuzz.testing.installed import Installed, install_target
from loadfuzz.testing.scripted import OPEN_VARIABLE, SEEDS_VARIABLE

WAIT_S = 60.0
"""Longest wait for something that is bound to happen."""


SHORT = ("run", "scripted", "--engine", "native", "--workers", "1", "--execs", "60", "--seed", "3")


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_clean_run_ends_with_0_and_a_folder(installed: Installed) -> None:
    done = installed.run(*SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No findings" in done.stdout
    folder = installed.folder / "loadfuzz-out" / "scripted-001"
    assert {"campaign.json", "corpus", "events.ndjson", "findings", "stats", "worker-0"} <= set(
        os.listdir(folder)
    )
    started = json.loads((folder / "campaign.json").read_text())
    assert started["format_version"] == 1
    assert started["settings"] == {
        "target": "scripted", "engine": "native", "seed": 3, "workers": 1, "seconds": None,
        "executions": 60, "seeds": [], "load_timeout_s": 2.0, "stale_s": None,
        "first_finding": False,
        "dear_share": 512, "operators": None, "ignore": [],
    }  # fmt: skip
    assert installed.run(*SHORT).stdout.count("scripted-002") == 2


def test_findings_end_with_1_and_each_has_its_command(installed: Installed) -> None:
    done = installed.run(*SHORT, **{SEEDS_VARIABLE: "QEVMa,QEVMX"})
    assert (done.returncode, done.stderr) == (1, "")
    assert "seed not accepted, but used: QEVMX: crashed: IndexError" in done.stdout
    (folder,) = (installed.folder / "loadfuzz-out" / "scripted-001" / "findings").iterdir()
    command = f"loadfuzz replay {folder.relative_to(installed.folder)}"
    assert f"     {command}\n" in done.stdout
    assert (folder / "input").read_bytes()[4:5] == b"X"
    again = installed.run(*command.split()[1:], "-n", "2")
    assert again.returncode == 1
    assert again.stdout.endswith("reproduced 2/2\n")


def test_json_is_one_object_on_stdout_and_all_else_is_on_stderr(installed: Installed) -> None:
    done = installed.run(*SHORT, "--json", "--out", "here", **{SEEDS_VARIABLE: "QEVMa,QEVMX"})
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    value = json.loads(done.stdout)
    assert (value["target"], value["engine"], value["seed"]) == ("scripted", "native", 3)
    assert value["executions"] == 60
    assert value["executions_per_second"] > 0
    assert value["corpus"] >= 2
    (finding,) = value["findings"]
    assert finding["oracle"] == "clean-error"
    assert finding["reliability"] == [3, 3]
    assert finding["folder"].startswith("here/findings/clean-error-")
    assert (installed.folder / finding["folder"] / "report.txt").is_file()
    assert "fuzzing scripted" in done.stderr
    assert "1 finding in here/findings" in done.stderr


def test_quiet_says_nothing_before_the_summary(installed: Installed) -> None:
    done = installed.run(*SHORT, "--quiet")
    assert done.stdout.startswith("scripted, native engine, 1 worker, seed 3: budget used up")


def test_the_same_seed_and_budget_give_the_same_log(installed: Installed) -> None:
    for out in ("one", "two", "three"):
        arguments = [*SHORT[:-1], "4" if out == "three" else "3", "--out", out]
        installed.run(*arguments, **{SEEDS_VARIABLE: "QEVMa,QEVMR,QEVMX"})
    logs = [
        (installed.folder / out / "events.ndjson").read_bytes() for out in ("one", "two", "three")
    ]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert b'"executions":60' in logs[0]


def test_two_workers_share_a_budget_and_a_folder(installed: Installed) -> None:
    value = installed.json(
        "run", "scripted", "--engine", "native", "--workers", "2", "--execs", "41"
    )
    assert (value["workers"], value["executions"]) == (2, 41)


def test_there_are_no_more_workers_than_executions(installed: Installed) -> None:
    value = installed.json(
        "run", "scripted", "--engine", "native", "--workers", "9", "--execs", "2"
    )
    assert value["workers"] == 2


def test_a_target_that_kills_its_process_is_a_finding_and_the_run_goes_on(
    installed: Installed,
) -> None:
    value = installed.json(*SHORT, **{SEEDS_VARIABLE: "QEVMa,QEVME"})
    assert value["executions"] == 60
    assert value["restarts"] != 0
    findings = value["findings"]
    assert isinstance(findings, list)
    titles = {finding["title"]: finding["reliability"] for finding in findings}
    assert titles == {"exit status 9 ended the process inside a load": [3, 3]}
    assert value["seeds_refused"] == [
        {"name": "QEVME", "reason": "ends the target's process: exit status 9"}
    ]


def test_what_the_target_prints_does_not_get_among_the_events(installed: Installed) -> None:
    value = installed.json(*SHORT, **{SEEDS_VARIABLE: "QEVMP"})
    assert (value["executions"], value["warnings"]) == (60, [])


def test_how_long_a_load_may_take_can_be_said(installed: Installed) -> None:
    run = ("run", "scripted", "--engine", "native", "--workers", "1", "--execs", "5", "--out", "o")
    value = installed.json(*run, "--load-timeout", "120ms", **{SEEDS_VARIABLE: "QEVMa,QEVMH"})
    batch = json.loads((installed.folder / "o" / "worker-0" / "batch.json").read_text())
    assert batch["load_timeout_s"] == 0.12
    findings = value["findings"]
    assert isinstance(findings, list)
    assert [finding["oracle"] for finding in findings] == ["no-hang"]
    # A replay gives loads as much time as they had.
    folder = installed.folder / findings[0]["folder"]
    assert read_finding(folder).load_timeout_s == 0.12
    done = installed.run(*run, "--load-timeout", "1h")
    assert done.returncode == 2
    assert "--load-timeout must be 0.05 s to 10 s, not 3600" in done.stderr


# -- seeds -----------------------------------------------------------------------------------


def test_bad_seeds_are_named_and_set_aside_and_the_run_goes_on(installed: Installed) -> None:
    seeds = installed.folder / "seeds"
    (seeds / "inner").mkdir(parents=True)
    (seeds / "good").write_bytes(b"QEVMgood")
    (seeds / "refused").write_bytes(b"QEVMR")
    (seeds / "empty").write_bytes(b"")
    (seeds / "text").write_bytes(b"hello, world")
    (seeds / "short").write_bytes(b"QE")
    with (seeds / "large").open("wb") as file:
        file.write(b"QEVM")
        file.truncate(1 << 40)
    os.mkfifo(seeds / "pipe")
    (seeds / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(seeds / "socket"))
        value = installed.json(*SHORT, "--seeds", "seeds", "missing", "/dev/zero", "--out", "here")
    set_aside = value["seeds_set_aside"]
    assert isinstance(set_aside, list)
    reasons = {seed["name"]: seed["reason"] for seed in set_aside}
    assert reasons == {
        "seeds/empty": "is empty",
        "seeds/text": "is no stream: it starts with 68 65 6c 6c, not 51 45 56 4d ('QEVM')",
        "seeds/short": "is no stream: it starts with 51 45, not 51 45 56 4d ('QEVM')",
        "seeds/large": reasons["seeds/large"],
        "seeds/pipe": "is a named pipe, not a file",
        "seeds/socket": "is a socket, not a file",
        "seeds/dangling": "does not exist",
        "seeds/inner": "is a directory inside a directory; name it itself",
        "missing": "does not exist",
        "/dev/zero": "is a character device, not a file",
    }
    assert (
        f"has 1,099,511,627,776 bytes, more than the {STREAM_SIZE_MAX:,} " in reasons["seeds/large"]
    )
    assert value["seeds_refused"] == [
        {"name": "seeds/refused", "reason": "refused: body: refused as asked (offset 0x4)"}
    ]
    assert value["executions"] == 60
    # The target's own seeds were not used.
    log = lines_of(installed.folder / "here" / "events.ndjson")
    assert next(line for line in log if line["event"] == "campaign-started")["seeds"] == 2


FITTED = """\
import os, time
from loadfuzz.testing.scripted import ScriptedTarget


class Target(ScriptedTarget):
    name = "fitted"

    def for_seeds(self, seeds):
        for seed in seeds:
            while seed.stream == b"QEVMburns":
                pass
            if seed.stream == b"QEVMraises":
                raise IndexError("as asked")
            if seed.stream == b"QEVMexits":
                os._exit(7)
        chosen = Target()
        chosen.name = f"fitted@{seeds[0].origin}"
        return chosen


TARGET = Target()
"""


def install_fitted(installed: Installed) -> None:
    site = installed.folder.parent / "site"
    (site / "fitted_target.py").write_text(FITTED)
    install_target(site, "fitted", "fitted_target:TARGET", "fitted")


def test_a_seed_that_the_target_cannot_be_fitted_to_is_set_aside(installed: Installed) -> None:
    install_fitted(installed)
    seeds = installed.folder / "seeds"
    seeds.mkdir()
    for text in ("burns", "exits", "good", "raises"):
        (seeds / text).write_bytes(b"QEVM" + text.encode())
    run = ("run", "fitted", "--engine", "native", "--workers", "1", "--execs", "20", "--out", "o")
    value = installed.json(*run, "--seeds", "seeds")
    assert value["seeds_set_aside"] == [
        {"name": "seeds/burns", "reason": "the target cannot be fitted to it: takes too long"},
        {"name": "seeds/exits", "reason": "ends the target's process: exit status 7"},
        {
            "name": "seeds/raises",
            "reason": "the target cannot be fitted to it: fitting: IndexError: as asked",
        },
    ]
    assert (value["executions"], value["seeds_refused"]) == (20, [])
    out = installed.folder / "o"
    assert len(os.listdir(out / "quarantine")) == 3
    # Whatever becomes of the corpus, workers have the stream that the target was fitted to.
    (kept,) = (out / "machine").iterdir()
    assert kept.read_bytes() == b"QEVMgood"
    batch = json.loads((out / "worker-0" / "batch.json").read_text())
    assert batch["target"] == f"fitted@{kept}"


def test_a_target_that_cannot_be_fitted_to_any_seed_is_not_started(installed: Installed) -> None:
    install_fitted(installed)
    (installed.folder / "a").write_bytes(b"QEVMraises")
    done = installed.run("run", "fitted", "--engine", "native", "--execs", "20", "--seeds", "a")
    assert done.returncode == 2
    assert "none of the --seeds can be used:\n  a the target cannot be fitted to it" in done.stderr
    assert os.listdir(installed.folder) == ["a"]


def test_names_that_are_not_utf8_are_escaped(installed: Installed) -> None:
    folder = os.fsencode(installed.folder)
    with open(os.path.join(folder, b"\xffgood"), "wb") as file:
        file.write(b"QEVMR")
    with open(os.path.join(folder, b"\xff\x1bbad"), "wb") as file:
        file.write(b"")
    value = installed.json(*SHORT, "--seeds", os.fsdecode(b"\xffgood"), os.fsdecode(b"\xff\x1bbad"))
    assert value["seeds_set_aside"] == [{"name": "\\udcff\\x1bbad", "reason": "is empty"}]
    assert value["seeds_refused"] == [
        {"name": "\\udcffgood", "reason": "refused: body: refused as asked (offset 0x4)"}
    ]
    done = installed.run(*SHORT, "--out", os.fsdecode(b"\xffout"))
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr


def test_seeds_that_may_not_be_read_are_named(installed: Installed) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (installed.folder / "good").write_bytes(b"QEVMgood")
    (installed.folder / "secret").write_bytes(b"QEVM")
    (installed.folder / "secret").chmod(0)
    (installed.folder / "locked").mkdir(0)
    value = installed.json(*SHORT, "--seeds", "good", "secret", "locked")
    assert value["seeds_set_aside"] == [
        {"name": name, "reason": "may not be read; check its permissions"}
        for name in ("secret", "locked")
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_good_seed_the_run_is_refused(installed: Installed, count: int) -> None:
    (installed.folder / "a").write_bytes(b"")
    (installed.folder / "b").mkdir()
    done = installed.run(*SHORT, "--seeds", *["a", "b"][:count])
    assert done.returncode == 2
    assert "none of the --seeds can be used:\n  a is empty\n" in done.stderr
    assert "capture one with 'loadfuzz seeds capture'" in done.stderr
    # A campaign that never began leaves nothing behind.
    assert sorted(os.listdir(installed.folder)) == ["a", "b"]


def test_a_variant_gets_a_folder_with_a_plain_name(installed: Installed) -> None:
    done = installed.run("run", "scripted:form")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no variants" in done.stderr
    value = installed.json("run", "planted:ps2-ring-walk", "--engine", "native", "--execs", "1")
    assert value["out"] == "loadfuzz-out/planted-ps2-ring-walk-001"


def test_a_run_that_never_began_leaves_an_empty_folder_empty(installed: Installed) -> None:
    (installed.folder / "mine").mkdir()
    installed.run(*SHORT, "--out", "mine", **{SEEDS_VARIABLE: ""})
    assert os.listdir(installed.folder / "mine") == []


def test_a_target_without_seeds_asks_for_some(installed: Installed) -> None:
    done = installed.run(*SHORT, **{SEEDS_VARIABLE: ""})
    assert done.returncode == 2
    assert "has no seed of its own; give it some with --seeds" in done.stderr


def test_a_target_whose_seeds_are_no_streams_says_so(installed: Installed) -> None:
    value = installed.json(*SHORT, **{SEEDS_VARIABLE: "QEVMa,oops"})
    assert value["seeds_set_aside"] == [
        {"name": "oops", "reason": "is no stream: it starts with 6f 6f 70 73, "
                                   "not 51 45 56 4d ('QEVM')"}
    ]  # fmt: skip


def test_a_target_that_cannot_be_opened_is_the_machinerys_fault(installed: Installed) -> None:
    done = installed.run(*SHORT, **{OPEN_VARIABLE: "fails"})
    assert done.returncode == 3
    assert "no machine today" in done.stderr
    assert "Traceback" not in done.stderr


# -- the folder ------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_a_campaigns_is_refused(installed: Installed) -> None:
    folder = installed.folder
    (folder / "file").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("")
    (folder / "newer").mkdir()
    (folder / "newer" / "campaign.json").write_text('{"format_version": 9}')
    (folder / "damaged").mkdir()
    (folder / "damaged" / "campaign.json").write_text('{"format_version": 1')
    for out, words in (
        ("file", "file is a file; name a folder"),
        ("file/below", "file is a file; name a folder"),
        ("full", "the folder has other files in it (thesis.tex) and is no campaign's"),
        ("newer", "was made by a newer loadfuzz (format 9, this one knows 1); update loadfuzz"),
        ("damaged", "campaign.json is damaged"),
        ("/proc/nowhere", "/proc/nowhere cannot be used"),
    ):
        done = installed.run(*SHORT, "--out", out)
        assert done.returncode == 2, out
        assert words in done.stderr
        assert "--out" in done.stderr
    assert os.listdir(folder / "full") == ["thesis.tex"]
    assert sorted(os.listdir(folder)) == ["damaged", "file", "full", "newer"]


def test_a_folder_that_may_not_be_written_is_refused(installed: Installed) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (installed.folder / "locked").mkdir(0o555)
    for out in ("locked", "locked/inner"):
        done = installed.run(*SHORT, "--out", out)
        assert done.returncode == 2
        assert "name a folder that you may write to with --out" in done.stderr


def test_a_campaign_goes_on_where_it_was(installed: Installed) -> None:
    first = installed.json(*SHORT, "--out", "here", **{SEEDS_VARIABLE: "QEVMa,QEVMX"})
    second = installed.json(*SHORT, "--out", "here", **{SEEDS_VARIABLE: "QEVMa,QEVMX"})
    assert first["findings"] != []
    for value, known in ((first, False), (second, True)):
        findings = value["findings"]
        assert isinstance(findings, list)
        for finding in findings:
            finding.pop("times")
            assert finding.pop("known") is known
    assert second["findings"] == first["findings"]
    done = installed.run("run", "reference", "--execs", "1", "--out", "here")
    assert done.returncode == 2
    assert "here holds a campaign of target 'scripted'" in done.stderr


def test_a_folder_in_use_is_refused(installed: Installed) -> None:
    endless = (
        "run",
        "scripted",
        "--engine",
        "native",
        "--workers",
        "1",
        "--time",
        "600",
        "--out",
        "a",
    )
    with installed.start(*endless) as process:
        wait_for_workers(process, 1)
        done = installed.run(*SHORT, "--out", "a")
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert done.returncode == 2
    assert "another campaign is running in" in done.stderr


# -- the end ---------------------------------------------------------------------------------


def children_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_workers(process: "subprocess.Popen[str]", count: int) -> list[psutil.Process]:
    """The worker processes, once there are ``count`` of them."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        try:
            found = [
                child for child in children_of(process)
                if "loadfuzz.engines.worker" in child.cmdline()
                and not any("launch.py" in word for word in child.cmdline())
            ]  # fmt: skip
        except psutil.NoSuchProcess:
            continue
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError("no workers")


ENDLESS = ("run", "scripted", "--engine", "native", "--workers", "2", "--time", "1h", "--no-live")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_summary(installed: Installed, number: signal.Signals) -> None:
    with installed.start(*ENDLESS) as process:
        workers = wait_for_workers(process, 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, (out, err)
    assert ": interrupted after" in out
    assert not any(worker.is_running() for worker in workers)


def test_an_interrupted_run_with_findings_ends_with_1(installed: Installed) -> None:
    with installed.start(*ENDLESS, **{SEEDS_VARIABLE: "QEVMX"}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "  finding: " in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, (out, err)
    assert "loadfuzz replay loadfuzz-out/scripted-001/findings/clean-error-" in out


def test_two_signals_end_a_run_at_once(installed: Installed) -> None:
    with installed.start(*ENDLESS) as process:
        workers = wait_for_workers(process, 2)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert not any(worker.is_running() for worker in workers)


def test_no_process_survives_a_supervisor_that_is_killed(installed: Installed) -> None:
    with installed.start(*ENDLESS) as process:
        workers = wait_for_workers(process, 2)
        process.kill()
        process.communicate(timeout=WAIT_S)
    gone, alive = psutil.wait_procs(workers, timeout=WAIT_S)
    assert (len(gone), alive) == (2, [])


def test_a_worker_that_is_killed_is_replaced(installed: Installed) -> None:
    with installed.start(*ENDLESS, "--json") as process:
        first, second = wait_for_workers(process, 2)
        assert process.stderr is not None
        first.kill()
        for line in process.stderr:
            if "; restarted" in line:
                break
        wait_for_workers(process, 2)
        assert second.is_running()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
    assert json.loads(out)["reason"] == "interrupted"


def test_a_full_disk_ends_the_run_with_3_and_keeps_what_was_found(installed: Installed) -> None:
    installed.run(*SHORT, "--out", "here", **{SEEDS_VARIABLE: "QEVMX"})
    folder = installed.folder / "here"
    (finding,) = (folder / "findings").iterdir()
    (folder / "events.ndjson").unlink()
    (folder / "events.ndjson").symlink_to("/dev/full")
    done = installed.run(*SHORT, "--out", "here", **{SEEDS_VARIABLE: "QEVMX"})
    assert done.returncode == 3
    assert "No space left on device; make room, or choose a folder on another disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert (finding / "finding.json").is_file()


def test_a_worker_that_is_killed_inside_a_load_is_no_finding(installed: Installed) -> None:
    # Its only seed takes its time, so that a load is nearly always under way.
    arguments = (*ENDLESS[:5], "1", *ENDLESS[6:], "--json")
    with installed.start(*arguments, **{SEEDS_VARIABLE: "QEVMS"}) as process:
        (worker,) = wait_for_workers(process, 1)
        last_input = installed.folder / "loadfuzz-out" / "scripted-001" / "worker-0" / "last-input"
        while not (last_input.exists() and last_input.read_bytes()[:1] == b"\x01"):
            assert process.poll() is None
        worker.kill()
        assert process.stderr is not None
        for line in process.stderr:
            if "; restarted" in line:
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
    value = json.loads(out)
    assert "somebody else did it" in value["warnings"][0]
    assert value["findings"] == []


def test_a_target_named_behind_seeds_is_not_taken_for_a_missing_file(installed: Installed) -> None:
    done = installed.run("run", "--seeds", "good.stream", "scripted", "--execs", "3")
    assert done.returncode == 2
    assert "--seeds took 'scripted' for a file" in done.stderr


def test_a_fresh_campaign_begins_beside_the_one_that_is_there(installed: Installed) -> None:
    for name in ("mine", "mine-2", "mine-3"):
        value = installed.json(*SHORT, "--json", "--out", "mine", "--fresh")
        assert (value["out"], value["executions"]) == (name, 60)
    before = (installed.folder / "mine" / "events.ndjson").read_bytes()
    assert before.count(b"campaign-started") == 1
    installed.run(*SHORT, "--out", "mine")
    assert (installed.folder / "mine" / "events.ndjson").read_bytes() != before


def test_a_fresh_campaign_beside_the_folder_one_is_in(installed: Installed) -> None:
    installed.run(*SHORT, "--out", "mine")
    inside = dataclasses.replace(installed, folder=installed.folder / "mine")
    value = inside.json(*SHORT, "--json", "--out", ".", "--fresh")
    assert value["out"] == str(installed.folder / "mine-2")
