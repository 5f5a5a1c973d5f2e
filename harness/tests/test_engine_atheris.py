"""Real Atheris workers: coverage guides them, and nothing the target does ends them."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadfuzz import codec, events
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.wrapper import write_wrapper
from loadfuzz.events import Event
from loadfuzz.storage import Corpus
from loadfuzz.testing.installed import Installed, install_target

LOADER = '''\
"""A loader with a lock of four bytes, and bugs behind it."""

import os
import signal
import time

from savevm import LoadError


def load(stream):
    if stream[:4] != b"QEVM":
        raise LoadError("no magic", offset=0, path=("header",))
    body = stream[4:]
    opened = 0
    if body[:1] > b"A":
        opened += 1
        if body[:1] < b"Z":
            opened += 1
            if len(body) > 8:
                opened += 1
    if body[:1] == b"X":
        raise IndexError("out of range")
    if body[:1] == b"I":
        raise KeyboardInterrupt
    if body[:1] == b"H":
        while True:
            pass
    if body == b"Kill this process":
        os.kill(os.getpid(), signal.SIGKILL)
    if body == b"Zzz sleep for long":
        time.sleep(3600)
    return opened
'''

TARGET = """\
from loadfuzz.testing.scripted import ScriptedSubject, ScriptedTarget

import guarded_loader


class Subject(ScriptedSubject):
    def load(self, stream, delivery, trace):
        guarded_loader.load(stream)
        self._stream = stream


class Target(ScriptedTarget):
    name = "guarded"
    instrument = ("guarded_loader",)

    def open(self):
        return Subject()


class Blind(Target):
    name = "blind"
    instrument = ("no_such_package",)


TARGET = Target()
BLIND = Blind()
"""


def _wheel_expected() -> bool:
    return (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and (3, 11) <= sys.version_info[:2] <= (3, 13)
    )


def _on_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


pytestmark = [
    pytest.mark.atheris,
    pytest.mark.skipif(
        find_spec("atheris") is None and not (_on_ci() and _wheel_expected()),
        reason="Atheris is not installed; where a wheel exists: pip install loadfuzz[atheris]",
    ),
]


def lay_out(
    installed: Installed,
    seeds: Sequence[bytes],
    *,
    target: str = "guarded",
    executions: int | None = None,
    seconds: float | None = None,
) -> tuple[Path, Path]:
    """A campaign's folder with a batch in it: the folder and the batch file."""
    site = installed.folder.parent / "site"
    (site / "guarded_loader.py").write_text(LOADER)
    (site / "guarded_target.py").write_text(TARGET)
    install_target(site, "guarded", "guarded_target:TARGET", "guarded")
    install_target(site, "blind", "guarded_target:BLIND", "blind")
    out = installed.folder / "out"
    for folder in ("corpus", "findings", "worker-0"):
        (out / folder).mkdir(parents=True)
    for stream in seeds:
        Corpus(out / "corpus").add(stream)
    batch = Batch(target, Engine.ATHERIS, str(out), 0, 5, seconds, executions, load_timeout_s=0.4)
    path = out / "worker-0" / "batch.json"
    path.write_bytes(codec.encode(batch))
    return out, path


def run(
    installed: Installed, path: Path, command: Sequence[str] | None = None
) -> tuple[list[Event], int, str]:
    with subprocess.Popen(
        command or [sys.executable, "-m", "loadfuzz.engines.worker", str(path)],
        cwd=installed.folder,
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as worker:
        try:
            out, err = worker.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            worker.kill()
            raise
    return [events.decode(line) for line in out.splitlines()], worker.returncode, err.decode()


def test_it_does_its_budget_finds_by_coverage_and_goes_on_after_findings(
    installed: Installed,
) -> None:
    out, path = lay_out(installed, (b"QEVMaa", b"QEVMX", b"QEVMI", b"QEVMH"), executions=400)
    heard, code, err = run(installed, path)
    assert code == 0, err
    assert isinstance(heard[0], events.WorkerStarted)
    end = heard[-1]
    assert isinstance(end, events.WorkerEnded)
    assert (end.executions, end.reason) == (400, "budget")
    findings = [event for event in heard if isinstance(event, events.FindingAnnounced)]
    assert {finding.oracle for finding in findings} == {"clean-error", "no-hang"}
    assert any("KeyboardInterrupt" in finding.title for finding in findings)
    assert any("IndexError" in finding.title for finding in findings)
    assert all((out / finding.folder).is_dir() for finding in findings)
    # What libFuzzer kept for its coverage is in the campaign's corpus, by our names.
    added = {event.digest for event in heard if isinstance(event, events.CorpusAdded)}
    assert added
    assert added <= set(Corpus(out / "corpus").digests())
    progress = [event for event in heard if isinstance(event, events.Progress)]
    assert progress[-1].executions == 400
    assert progress[-1].operators
    assert "ERROR: libFuzzer" not in err
    assert "Instrumenting guarded_loader" in err
    assert "Instrumenting loadfuzz" not in err


def test_a_target_without_coverage_is_our_error_and_no_endless_blind_run(
    installed: Installed,
) -> None:
    _, path = lay_out(installed, (b"QEVMaa",), target="blind", executions=50)
    heard, code, _ = run(installed, path)
    assert code == 3
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "instrumented" in heard[-1].reason


def test_a_target_with_nothing_to_instrument_is_for_the_native_engine(
    installed: Installed,
) -> None:
    _, path = lay_out(installed, (b"QEVMaa",), target="scripted", executions=50)
    heard, code, _ = run(installed, path)
    assert code == 2
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "--engine native" in heard[-1].reason


def test_the_wrapper_is_a_program_that_takes_libfuzzers_flags(installed: Installed) -> None:
    out, path = lay_out(installed, (b"QEVMaa",), executions=30)
    heard, code, err = run(installed, path)
    assert code == 0, err
    wrapper = out / "worker-0" / "run"
    heard, code, err = run(installed, path, [str(wrapper), "-runs=0", "-help=1"])
    assert "minimize_crash" in err
    assert not any(isinstance(event, events.FindingAnnounced) for event in heard)


def test_a_wrapper_survives_blanks_and_quotes(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    wrapper = write_wrapper(folder, ["--instrument", "a,b", str(folder / "b c.json")])
    assert os.access(wrapper, os.X_OK)
    done = subprocess.run([wrapper], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "b c.json holds no batch" in done.stderr


def test_a_worker_takes_in_what_another_has_found(installed: Installed) -> None:
    out, path = lay_out(installed, (b"QEVMaa",), seconds=9.0)
    with subprocess.Popen(
        [sys.executable, "-m", "loadfuzz.engines.worker", str(path)],
        cwd=installed.folder,
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as worker:
        assert worker.stdout is not None
        while not isinstance(events.decode(worker.stdout.readline()), events.Progress):
            pass
        digest = Corpus(out / "corpus").add(b"QEVM" + b"from another worker" * 9)
        assert digest is not None
        worker.communicate(timeout=240)
    assert (out / "worker-0" / "libfuzzer" / digest).exists()


def test_a_signal_ends_it_cleanly(installed: Installed) -> None:
    _, path = lay_out(installed, (b"QEVMaa",))
    with subprocess.Popen(
        [sys.executable, "-m", "loadfuzz.engines.worker", str(path)],
        cwd=installed.folder,
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as worker:
        assert worker.stdout is not None
        while not isinstance(events.decode(worker.stdout.readline()), events.Progress):
            pass
        worker.terminate()
        rest, _ = worker.communicate(timeout=240)
    end = events.decode(rest.splitlines()[-1])
    assert isinstance(end, events.WorkerEnded)
    assert end.reason == "stopped"
    assert worker.returncode == 0


def test_a_finding_that_cannot_be_written_ends_the_run_with_words(installed: Installed) -> None:
    out, path = lay_out(installed, (b"QEVMaa", b"QEVMX"), executions=200)
    (out / "findings").rmdir()
    (out / "findings").write_text("no folder")
    heard, code, _ = run(installed, path)
    assert code == 3
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "writing a finding" in heard[-1].reason
