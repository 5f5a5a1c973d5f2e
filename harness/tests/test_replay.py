"""Does it happen again?  Runs in fresh loaders, in a process that may die of it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, ExitKind
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.repro import replay as module
from loadfuzz.repro.again import Run
from loadfuzz.repro.replay import Replayed, replay, shows
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import EXIT_STATUS, OPEN_VARIABLE


@pytest.fixture(autouse=True)
def _use(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes of this one find the target ``scripted``."""
    monkeypatch.setenv("PYTHONPATH", installed.environment["PYTHONPATH"])


def again(stream: bytes, runs: int = 2, wanted: Violation | None = None) -> Replayed:
    return asyncio.run(replay("scripted", Input(stream), runs, wanted=wanted))


def oracles_of(replayed: Replayed) -> list[list[str]]:
    return [[violation.oracle for violation in run.violations] for run in replayed.runs]


def test_an_accepted_stream_has_nothing_to_show() -> None:
    replayed = again(b"QEVMfine")
    assert [run.kind for run in replayed.runs] == [ExitKind.ACCEPTED] * 2
    assert replayed.reproduced == 0


def test_a_clean_refusal_is_told_and_is_no_violation() -> None:
    replayed = again(b"QEVMR")
    assert [run.text for run in replayed.runs] == ["body: refused as asked (offset 0x4)"] * 2
    assert replayed.reproduced == 0


def test_what_the_target_prints_is_no_answer() -> None:
    assert again(b"QEVMP").runs[0].kind is ExitKind.ACCEPTED


def test_an_escape_shows_in_every_run() -> None:
    replayed = again(b"QEVMX", 3)
    assert oracles_of(replayed) == [["clean-error"]] * 3
    assert replayed.runs[0].text == "IndexError: out of range, as asked"
    assert replayed.reproduced == 3


def test_another_violation_than_the_wanted_one_does_not_count() -> None:
    wanted = Violation("clean-error", "", "", "", "elsewhere")
    assert again(b"QEVMX", wanted=wanted).reproduced == 0


@pytest.mark.parametrize(
    ("script", "cause"),
    [(b"K", signal.SIGKILL.name), (b"E", f"exit status {EXIT_STATUS}")],
    ids=["signal", "exit"],
)
def test_a_target_that_takes_its_process_along_does_so_in_every_run(
    script: bytes, cause: str
) -> None:
    replayed = again(b"QEVM" + script, 3)
    assert oracles_of(replayed) == [["clean-error"]] * 3
    assert [run.number for run in replayed.runs] == [0, 1, 2]
    assert replayed.runs[2].text.startswith(f"{cause} ended the process inside a load")


def test_a_load_that_hangs_is_interrupted() -> None:
    replayed = again(b"QEVMH", 1)
    assert replayed.runs[0].kind is ExitKind.TIMED_OUT
    assert oracles_of(replayed) == [["no-hang"]]


def test_a_hang_is_the_same_wherever_it_is_interrupted() -> None:
    run = Run(0, ExitKind.TIMED_OUT, Depth.NOTHING, "", (Violation("no-hang", "", "", "", "a"),))
    assert shows(run, Violation("no-hang", "", "", "", "b"))
    assert not shows(run, Violation("atomic", "", "", "", "a"))


def test_a_process_that_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_MAX_S", 0.2)
    script = tmp_path / "silent.py"
    script.write_text("import time; time.sleep(1000)")
    with pytest.raises(InfraError, match=r"cannot be run: signal SIG(TERM|KILL)"):
        asyncio.run(replay("x", Input(b""), 1, command=(sys.executable, str(script))))


def test_a_process_that_talks_nonsense_is_the_machinerys_fault(tmp_path: Path) -> None:
    script = tmp_path / "nonsense.py"
    script.write_text("print('nonsense')")
    with pytest.raises(InfraError, match="running again failed: no JSON"):
        asyncio.run(replay("x", Input(b""), 1, command=(sys.executable, str(script))))


def test_a_target_that_cannot_be_opened_is_the_machinerys_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OPEN_VARIABLE, "fails")
    with pytest.raises(InfraError, match="no machine today"):
        again(b"QEVM")


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    again(b"QEVMK")
    assert os.listdir(place) == []


def test_there_is_no_such_target() -> None:
    with pytest.raises(UsageError, match="no target 'nobodys'"):
        asyncio.run(replay("nobodys", Input(b""), 1))


@pytest.mark.parametrize(
    ("actual", "same"),
    [
        ("SIGABRT: Assertion `n < limit' failed. in card.c:reset_hold:9", True),
        ("SIGABRT: Assertion `n < other' failed. in card.c:reset:9", False),
        ("SIGABRT: no in card.c:reset:9", False),
    ],
)
def test_the_same_words_in_a_renamed_function_are_the_same_failure(actual: str, same: bool) -> None:
    def died(actual: str, path: str) -> Violation:
        return Violation("clean-error", "it died", "it is accepted or refused", actual, path)

    wanted = died("SIGABRT: Assertion `n < limit' failed. in card.c:reset:7", "SIGABRT at card.c:r")
    run = Run(0, ExitKind.CRASHED, Depth.NOTHING, "", (died(actual, "SIGABRT at card.c:x"),))
    assert shows(run, wanted) is same
