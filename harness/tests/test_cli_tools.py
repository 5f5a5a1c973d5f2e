"""``loadfuzz targets`` and ``loadfuzz doctor``."""

import os
import re
import stat
from collections.abc import Callable
from importlib.metadata import EntryPoint, PackageNotFoundError, metadata
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from loadfuzz import plugins
from loadfuzz.cli import checkup
from loadfuzz.cli.checkup import Check, State, examine
from loadfuzz.cli.main import run_cli
from loadfuzz.exitcodes import ExitCode
from loadfuzz.plugins import TARGETS
from loadfuzz.qemu.ptrace import TraceError
from loadfuzz.qemu.template import Template


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes certain targets the only installed ones."""

    def make(**values: str) -> None:
        points = [EntryPoint(name, value, TARGETS) for name, value in values.items()]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points)

    return make


def test_targets_are_listed_with_what_they_say_of_themselves(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(scripted="loadfuzz.testing.scripted:TARGET")
    assert run_cli(["targets"]) == ExitCode.CLEAN
    assert capsys.readouterr().out == "scripted  does as its input says\n"


def test_a_broken_target_is_listed_with_its_problem(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(broken="no_such_module:T", scripted="loadfuzz.testing.scripted:TARGET")
    assert run_cli(["targets", "--json"]) == ExitCode.MACHINERY
    rows = msgspec.json.decode(capsys.readouterr().out)["targets"]
    assert [(row["name"], bool(row["problem"])) for row in rows] == [
        ("broken", True), ("scripted", False),
    ]  # fmt: skip
    assert "cannot be imported from no_such_module" in rows[0]["problem"]


def test_no_targets_at_all_is_a_broken_installation(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer()
    assert run_cli(["targets"]) == ExitCode.MACHINERY
    assert "pip install loadfuzz" in capsys.readouterr().err


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_doctor_asks_every_qemu_on_the_path_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "qemu-system-good", "echo 'QEMU emulator version 9.9.9'; echo copyright")
    program(tmp_path, "qemu-system-bad", "echo 'libnothing.so: not found' >&2; exit 127")
    (tmp_path / "qemu-system-data").write_text("no program")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/no/such/folder")
    checks = by_name(checkup._qemus())
    assert sorted(checks) == ["qemu-system-bad", "qemu-system-good"]
    assert checks["qemu-system-good"].state is State.OK
    assert checks["qemu-system-good"].found.startswith("version 9.9.9 (")
    assert checks["qemu-system-bad"].state is State.MISSING
    assert "libnothing.so" in checks["qemu-system-bad"].found


def test_doctor_says_what_a_missing_qemu_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = checkup._qemus()
    assert check.state is State.MISSING
    assert check.costs
    assert "apt install qemu-system-x86" in check.get


def test_doctor_says_what_a_missing_atheris_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checkup, "_ask", lambda argv: (1, "Traceback\nModuleNotFoundError: no atheris")
    )
    check = checkup._atheris()
    assert (check.state, check.found) == (State.MISSING, "ModuleNotFoundError: no atheris")
    assert "native engine" in check.costs
    assert "pip install" in check.get


def test_doctor_speaks_only_of_extras_that_there_are() -> None:
    offered = set(metadata("loadfuzz").get_all("Provides-Extra") or ())
    for check in examine():
        named = set(re.findall(r"loadfuzz\[(\w+)\]", check.get))
        assert named <= offered


def test_doctor_says_what_a_missing_library_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    offered = set(metadata("loadfuzz").get_all("Provides-Extra") or ())
    monkeypatch.setattr(checkup, "version", missing)
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    checks = by_name(examine())
    for name in ("matplotlib", "coverage", "hypothesis", "zzuf", "distributed"):
        assert checks[name].state is State.MISSING
        assert checks[name].costs
        assert checks[name].get
        assert set(re.findall(r"loadfuzz\[(\w+)\]", checks[name].get)) <= offered


@pytest.mark.parametrize(
    ("trouble", "get"),
    [
        ("tracing process 7 is not possible: Operation not permitted (EPERM)", "allow ptrace"),
        ("processes can be copied on x86-64 Linux only", "x86-64 Linux with glibc"),
    ],
)
def test_doctor_says_why_nothing_is_copied(
    trouble: str, get: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> NoReturn:
        raise TraceError(trouble)

    monkeypatch.setattr(Template, "start", start)
    check = checkup._copies()
    assert (check.state, check.found) == (State.MISSING, trouble)
    assert get in check.get


@pytest.mark.usefixtures("copying")
def test_doctor_makes_a_copy() -> None:
    assert checkup._copies().state is State.OK


def test_a_program_that_never_answers_does_not_hold_up_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "PROBE_TIMEOUT_S", 0.2)
    program(tmp_path, "qemu-system-slow", "exec sleep 1000")
    status, text = checkup._ask([str(tmp_path / "qemu-system-slow")])
    assert status != 0
    assert text.startswith("no answer within")


def test_doctor_finds_rival_targets(
    offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint("a", "m:A", TARGETS), EntryPoint("a", "n:A", TARGETS)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    check = checkup._targets()
    assert check.state is State.BROKEN
    assert "offered twice: a" in check.found
    offer()
    assert checkup._targets().state is State.BROKEN


def test_little_room_is_a_warning_and_none_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkup._space("x", "/no/such/folder").state is State.BROKEN
    monkeypatch.setattr(checkup, "SPACE_MIN_BYTES", 1 << 80)
    assert checkup._space("x", "/").state is State.MISSING


def test_every_missing_piece_has_its_price_and_its_source() -> None:
    for check in examine():
        assert bool(check.costs) == bool(check.get) == (check.state is not State.OK), check


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([Check("a", State.OK, "here")], ExitCode.CLEAN),
        ([Check("a", State.MISSING, "gone", "much", "buy it")], ExitCode.CLEAN),
        ([Check("a", State.BROKEN, "gone", "all", "buy it")], ExitCode.MACHINERY),
    ],
    ids=["ok", "missing", "broken"],
)
def test_doctor_fails_only_when_the_main_job_cannot_run(
    checks: list[Check], code: ExitCode, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(checkup, "examine", lambda: checks)
    assert run_cli(["doctor"]) == code
    text = capsys.readouterr().out
    assert text.startswith(checks[0].state.value)
    assert ("get it: buy it" in text) == bool(checks[0].get)
    assert run_cli(["doctor", "--json"]) == code
    row = msgspec.json.decode(capsys.readouterr().out)["checks"][0]
    assert row["state"] == checks[0].state.value
