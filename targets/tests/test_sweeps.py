"""Sweeps: what the reference holds, what planted bugs break, and what people get to see."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadfuzz.cli.main import run_cli
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.exitcodes import ExitCode
from loadfuzz.faults.kinds import FaultKind
from loadfuzz.inputs import Seed
from loadfuzz.plugins import load_target
from loadfuzz.repro.folder import finding_folders, read_finding
from loadfuzz.sweeps.cells import Map
from loadfuzz.sweeps.picture import draw
from loadfuzz.sweeps.places import At, input_at
from loadfuzz.sweeps.running import Sweep
from loadfuzz.sweeps.telling import as_json, details
from savevm.board import machine_with
from savevm.save import save_to_bytes

STREAM = save_to_bytes(machine_with("timer", "ram", "nic"))
SEED = Seed("small", STREAM, "test")
BOUNDARIES = frozenset({At.SECTIONS, At.FIELDS})


def swept(target: str, kind: FaultKind, at: frozenset[At] = BOUNDARIES, step: int = 1) -> Map:
    sweep = Sweep(load_target(target), [SEED], kind, None, at, step)
    asyncio.run(sweep.run(1, 10.0, lambda: None))
    assert sweep.done == sweep.places == len(sweep.maps[0].verdicts)
    return sweep.maps[0]


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (FaultKind.CLOSE, ExitKind.REJECTED),
        (FaultKind.EIO, ExitKind.REJECTED),
        (FaultKind.RESET, ExitKind.REJECTED),
        (FaultKind.CANCEL, ExitKind.REJECTED),
        (FaultKind.SHORT_READ, ExitKind.ACCEPTED),
        (FaultKind.STALL, ExitKind.ACCEPTED),
        (FaultKind.BIT_FLIP, None),
    ],
)
def test_the_reference_does_what_must_follow_at_every_boundary(
    kind: FaultKind, verdict: ExitKind | None
) -> None:
    found = swept("reference", kind)
    assert not found.broken
    assert found.struck >= len(found.verdicts) - 1
    usual = max(found.counts().items(), key=lambda item: item[1])[0]
    assert verdict in (usual, None)


def test_every_offset_is_every_offset() -> None:
    found = swept("reference", FaultKind.CLOSE, frozenset({At.OFFSETS}))
    assert sorted(found.verdicts) == list(range(len(STREAM)))
    some = swept("reference", FaultKind.CLOSE, frozenset({At.OFFSETS}), 7)
    assert sorted(some.verdicts) == list(range(0, len(STREAM), 7))


def test_a_loader_that_takes_a_cut_stream_is_found_out() -> None:
    found = swept("planted:eof-at-boundary", FaultKind.CLOSE)
    assert {place.violation.signature for place in found.broken} == {
        "faults:close between sections"
    }
    assert all(found.verdicts[place.offset] is ExitKind.ACCEPTED for place in found.broken)
    assert "must be refused" in found.broken[0].words[0]


def test_a_cancel_happens_where_the_loader_waits_for_that_byte() -> None:
    for offset in (0, 5, 40_000, 70_000):
        item = input_at(bytes(80_000), FaultKind.CANCEL, offset, None)
        (fault,) = item.faults.faults
        assert sum(item.delivery.chunks[: fault.place.number]) == offset


def test_a_fault_that_has_no_offset_is_refused_with_those_that_have() -> None:
    with pytest.raises(UsageError, match=r"it takes short-read, stall, .*truncate"):
        swept("reference", FaultKind.DISK_EIO)


def test_a_loader_that_takes_a_worker_along_is_named_with_the_place(tmp_path: Path) -> None:
    sweep = Sweep(load_target("reference"), [SEED], FaultKind.CLOSE, None, BOUNDARIES)
    dies = tmp_path / "dies.py"
    dies.write_text("import sys; sys.exit('gone')")
    with pytest.raises(InfraError, match=r"between bytes 0 and \d+ of small: gone"):
        asyncio.run(sweep.run(1, 10.0, lambda: None, (sys.executable, str(dies))))


def test_stretches_join_neighbours_of_one_verdict() -> None:
    found = Map("m", 10, [(0, "header"), (4, "ram")])
    for offset, kind in enumerate("RRRRAARRRC"):
        found.verdicts[offset] = {
            "R": ExitKind.REJECTED, "A": ExitKind.ACCEPTED, "C": ExitKind.CRASHED
        }[kind]  # fmt: skip
    assert [(s.start, s.end, s.kind.value, s.count) for s in found.stretches()] == [
        (0, 3, "rejected", 4), (4, 5, "accepted", 2), (6, 8, "rejected", 3), (9, 9, "crashed", 1),
    ]  # fmt: skip
    assert details(found) == [
        "m: rejected everywhere but",
        "  accepted at 0x4-0x5, in ram (2 places)",
        "  crashed at 0x9, in ram (1 place)",
    ]
    assert as_json(found)["verdicts"]["rejected"] == 7


def test_a_map_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = swept("planted:eof-at-boundary", FaultKind.CLOSE)
    draw([found] * 30, "many", tmp_path / "many.png")
    draw([found], "one", tmp_path / "one.svg")
    assert (tmp_path / "many.png").stat().st_size > 10_000
    text = (tmp_path / "one.svg").read_text()
    assert "EOF" in text
    assert "#b9c4d0" in text


def test_findings_of_a_sweep_are_kept_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.bin").write_bytes(STREAM)
    line = ["sweep", "planted:eof-at-boundary", "--fault", "truncate", "--at", "sections"]
    assert run_cli([*line, "--seeds", "vm.bin", "--workers", "1"]) == ExitCode.FINDINGS
    out = capsys.readouterr().out
    assert "loadfuzz-out/sweep-planted-eof-at-boundary-001/findings" in out
    (folder,) = finding_folders(Path("loadfuzz-out/sweep-planted-eof-at-boundary-001/findings"))
    finding = read_finding(folder)
    assert finding.input.faults.faults[0].kind is FaultKind.CLOSE
    assert "must be refused" in (folder / "report.txt").read_text()
    assert run_cli(["replay", str(folder), "-n", "1"]) == ExitCode.FINDINGS
    assert run_cli(["replay", str(folder), "-n", "1", "--fault", "none"]) == ExitCode.CLEAN


def test_a_loader_elsewhere_is_given_the_streams_that_faults_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.bin").write_bytes(STREAM)
    line = ["sweep", "--command", "true {input}", "--seeds", "vm.bin", "--at", "sections"]
    assert run_cli([*line, "--fault", "truncate", "--workers", "1", "--json"]) == ExitCode.FINDINGS
    told = json.loads(capsys.readouterr().out)
    assert told["maps"][0]["verdicts"]["accepted"] == told["places"] == told["done"]
    assert told["maps"][0]["broken"][0]["signature"] == "faults:close"
    (folder,) = finding_folders(Path(told["folder"]) / "findings")
    finding = read_finding(folder)
    assert not finding.input.faults
    assert len(finding.input.stream) < len(STREAM)
    assert finding.mutations[0].operator == "fault-close"
    assert run_cli([*line, "--fault", "reset"]) == ExitCode.USAGE
    assert "which is given whole streams; it takes bit-flip, close" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reference"], "Missing option '--fault'"),
        (["reference", "--fault", "nonsense"], "no fault 'nonsense' with an offset; there are"),
        (["reference", "--fault", "eio", "--at", "moon"], "'moon' is not of fields, offsets"),
        (["reference", "--fault", "eio", "--seeds", "nowhere.bin"], "nowhere.bin"),
        (["reference", "--fault", "eio", "--picture", "x.doc"], "x.doc"),
        (["nothing", "--fault", "eio"], "no target 'nothing'"),
    ],
)
def test_what_cannot_be_swept_is_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["sweep", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_swept(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from loadfuzz.cli.main import main; main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, "sweep", "planted", "--fault", "truncate", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    with child:
        assert child.stderr is not None
        told = child.stderr.readline()
        assert "places" in told
        child.send_signal(signal.SIGINT)
        out, said = child.communicate(timeout=60)
    assert "interrupted after" in said
    result = json.loads(out)
    assert 0 < result["done"] < result["places"]
    assert child.returncode in (ExitCode.FINDINGS, ExitCode.INTERRUPTED)


def test_a_fault_around_a_loader_that_is_given_whole_streams_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vm.bin").write_bytes(STREAM)
    line = ["replay", str(tmp_path / "vm.bin"), "--target", "command:true {input}", "-n", "1"]
    assert run_cli([*line, "--fault", "reset@byte:4"]) == ExitCode.USAGE
    assert "no fault can strike around them" in capsys.readouterr().err


def test_a_replay_says_what_struck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vm.bin").write_bytes(STREAM)
    line = ["replay", str(tmp_path / "vm.bin"), "-n", "1", "--fault"]
    assert run_cli([*line, "reset@byte:4"]) == ExitCode.CLEAN
    assert "struck: reset@byte:4" in capsys.readouterr().out
    assert run_cli([*line, "reset@section:999"]) == ExitCode.CLEAN
    assert "struck: nothing" in capsys.readouterr().out
    assert run_cli([*line, "reset@byte:4", "--json"]) == ExitCode.CLEAN
    assert json.loads(capsys.readouterr().out)["results"][0]["struck"] == ["reset@byte:4"]
