"""``loadfuzz migrate``: what it tells, and how it ends."""

import json
import os
import shlex
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadfuzz.cli import migrate as module
from loadfuzz.cli.main import run_cli
from loadfuzz.exitcodes import ExitCode
from loadfuzz.findings import Violation
from loadfuzz.qemu import migration_run
from loadfuzz.qemu.migration import Attempt
from loadfuzz.qemu.one_runner import Hazard, judge
from loadfuzz.testing.installed import Installed


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children can be interrupted, though we may have been started in the background, where a
    shell has SIGINT ignored and all that comes of it inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reference"], "reference is no QEMU machine; name one, such as qemu:pc"),
        (["qemu:no-such-profile"], "has no variant 'no-such-profile'"),
        (["no-such-target"], "no target 'no-such-target'"),
        (["qemu:pc", "--qemu", "/no/such/qemu"], "cannot run '/no/such/qemu'"),
        (["--plan", "nonsense"], "'nonsense' is no fault; one looks like reset@byte:4711"),
        (["--plan", "disk-eio@disk:a/b#0"], "cannot be done to a QEMU"),
        (["--plan", "hook-raises@call:nic/load#0"], "cannot be done to a QEMU"),
        (["--plan", "reset@field:ram/x"], "use byte, section or read"),
        (["--plan", "eio@write:3"], "use byte, section or read"),
        (["--only", "load/"], "--only chooses among the faults of --storage; use --plan"),
        (["--storage", "--plan", "reset@byte:1"], "--plan and --autostart are for migrations"),
        (["--storage", "--autostart"], "--plan and --autostart are for migrations"),
        (["--storage", "--only", "nothing"], "no fault of storage has 'nothing' in its name"),
        (["--count", "0"], "0 is not within 1 to"),
        (["--out", __file__], "is no folder; name one, or a place for one"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_arguments_say_what_would_be_right(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["migrate", *arguments]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.qemu
def test_migrations_are_counted_by_verdict_and_hazard(
    qemu_binary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = "half-close@byte:70"
    code = run_cli(["migrate", "qemu:none", "--qemu", qemu_binary, "--count", "3", "--plan", plan])
    captured = capsys.readouterr()
    assert code == ExitCode.CLEAN, captured
    assert captured.out.startswith("3 migrations of a machine that sends 747 bytes in 4 sections\n")
    assert "\na fault has struck 3 of them\n" in captured.out
    assert captured.err == ""
    assert f"completed  failed              3   {plan}" in captured.out
    assert "on one side 3 times, on both 0 times, on none 0 times" in captured.out
    assert "source-done-first     3   the source was done, the destination was not" in captured.out
    assert captured.out.endswith("no finding\n")


@pytest.mark.qemu
@pytest.mark.parametrize("plan", ["reset@byte:5000000", "cancel@step:4000", "kill@step:9"])
def test_what_no_fault_struck_does_not_count_as_struck_and_a_plan_that_never_does_is_told(
    qemu_binary: str, plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["migrate", "qemu:none", "--qemu", qemu_binary, "--count", "2", "--plan", plan]
    assert run_cli([*arguments, "--json"]) == ExitCode.CLEAN
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    struck = plan.startswith("kill")  # of 747 bytes, a kill comes behind the last
    assert (value["migrations"], value["struck"]) == (2, 2 if struck else 0)
    assert (f"warning: [{plan}] never struck" in captured.err) is not struck
    if not struck:
        assert run_cli(arguments) == ExitCode.CLEAN
        out = capsys.readouterr().out
        assert "\na fault has struck 0 of them\n" in out
        assert "   no fault struck\n" in out


@pytest.mark.qemu
def test_one_json_object_has_every_row(
    qemu_binary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["migrate", f"qemu:none,qemu={qemu_binary}", "--count", "4", "--seed", "9"]
    assert run_cli([*arguments, "--json"]) == ExitCode.CLEAN
    first = json.loads(capsys.readouterr().out)
    assert run_cli([*arguments, "--json"]) == ExitCode.CLEAN
    second = json.loads(capsys.readouterr().out)
    assert [row["plan"] for row in first["rows"]] == [row["plan"] for row in second["rows"]]
    assert first["migrations"] == len(first["rows"]) == sum(first["verdicts"].values()) == 4
    assert first["target"] == f"qemu:none,qemu={qemu_binary}"
    hazards = Counter(row["hazard"] for row in first["rows"] if row["hazard"])
    assert first["hazards"] == hazards
    assert set(hazards) <= set(Hazard)
    assert first["findings"] == []


@pytest.mark.qemu
def test_a_finding_is_told_kept_and_ends_with_its_exit_code(
    qemu_binary: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # A destination that completes counts as lost once it was looked whether it goes at all.
    calls: list[Attempt] = []

    def doubting(attempt: Attempt) -> tuple[Violation, ...]:
        calls.append(attempt)
        if len(calls) == 1:
            return judge(attempt)
        return (Violation("one-runner", "planted", "one", "none", "planted"),)

    monkeypatch.setattr(migration_run, "judge", doubting)
    out = tmp_path / "found"
    code = run_cli(["migrate", "qemu:none", "--qemu", qemu_binary, "--count", "2", "--out",
                    str(out), "--plan", "stall@byte:1=5"])  # fmt: skip
    captured = capsys.readouterr()
    assert code == ExitCode.FINDINGS
    assert "stall@byte:1=5: one-runner:planted" in captured.err
    assert "1 finding\n  one-runner:planted\n    planted; again 3 of 3 times" in captured.out
    (folder,) = (out / "findings").iterdir()
    assert str(folder) in captured.out
    command = f"loadfuzz migrate qemu:none,qemu={qemu_binary} --plan stall@byte:1=5 --count 3"
    assert f"\n   {command}\n" in (folder / "report.txt").read_text()
    assert (folder / "migration.txt").read_text().startswith(f"{command}\n")
    assert run_cli(["replay", str(folder)]) == ExitCode.USAGE
    assert command in capsys.readouterr().err
    # It is a command that there is.
    calls.clear()
    assert run_cli(shlex.split(command)[1:]) == ExitCode.FINDINGS


@pytest.mark.qemu
def test_storage_is_tried_and_told(qemu_binary: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["migrate", "qemu:none", "--qemu", qemu_binary, "--storage", "--only",
                 "load/vmstate_load#0/EIO"]  # fmt: skip
    assert run_cli(arguments) == ExitCode.CLEAN
    told = capsys.readouterr().out
    assert told.startswith("4 operations while the disk failed\n")
    assert "load refused             4" in told
    assert "left-stopped     4   a load has failed, the guest stands still" in told
    assert run_cli([*arguments, "--json", "--count", "2"]) == ExitCode.CLEAN
    value = json.loads(capsys.readouterr().out)
    assert (value["operations"], value["outcomes"]) == (2, {"load refused": 2})
    assert len(value["rows"]) == 2


@pytest.mark.qemu
def test_an_interrupted_run_tells_what_it_has(
    qemu_binary: str, installed: Installed, interruptible: None
) -> None:
    process = installed.start("migrate", "qemu:none", "--qemu", qemu_binary, "--time", "60s")
    tree = psutil.Process(process.pid)
    seen: set[int] = set()
    # Destinations come and go: when there was the tenth, something has been done.
    while len(seen) < 10 and process.poll() is None:
        seen |= {child.pid for child in tree.children()}
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "interrupted after " in err
    assert "a fault has struck " in out
    assert not any(os.path.exists(f"/proc/{pid}") for pid in seen)


def test_findings_have_a_new_folder_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = module._folder(tmp_path / "found", "qemu:pc")
    new = module._folder(None, "qemu:pc")
    assert list(tmp_path.iterdir()) == []  # nothing is made before there is a finding
    assert named() == tmp_path / "found"
    folder = new()
    assert folder.is_dir()
    assert folder.name == "migrate-qemu-pc-001"
    assert new() == folder


def test_progress_is_told_now_and_then_and_trouble_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_S", 0.0)
    row = migration_run.Row(0, "reset@byte:1", (), 1, 1, "failed", "failed", ("source",), "", (),
                            False)  # fmt: skip
    progress = module._Progress(7)
    progress(row)
    assert capsys.readouterr().err == "1 of 7\n"
    bad = migration_run.Row(1, "reset@byte:2", (), 1, 1, "failed", "failed", (), "", ("a:b",),
                            False)  # fmt: skip
    progress(bad)
    assert capsys.readouterr().err == "reset@byte:2: a:b\n2 of 7, 1 broke a promise\n"
