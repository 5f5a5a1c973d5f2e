"""A target that does as its input says, installed for the duration of a test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = '''\
"""Loads anything that begins with QEVM; the fifth byte says what happens then."""

import os
import signal

from loadfuzz.inputs import Seed
from savevm import LoadError
from savevm.document import Document


class Subject:
    def __init__(self):
        self.reset()

    def load(self, stream, delivery, trace):
        if stream[:4] != b"QEVM":
            raise LoadError("no magic", offset=0, path=("header",))
        what = stream[4:5]
        if what == b"K":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == b"E":
            os._exit(9)
        if what == b"X":
            raise IndexError("out of range")
        if what == b"R":
            raise LoadError("refused as asked", offset=4, path=("body",))
        if what == b"P":
            print("the target prints this")
        while what == b"H":
            pass
        self.stream = stream

    def reset(self):
        self.stream = b"QEVM"

    def digest(self):
        return self.stream.hex()

    def save(self):
        return self.stream

    def check_invariants(self):
        return []

    def step(self, count):
        pass


class Target:
    name = "fake"
    summary = "does as its input says"
    instrument = ("fake_target",)

    def open(self):
        if os.environ.get("FAKE_OPEN") == "fails":
            raise RuntimeError("no machine today")
        return Subject()

    def seeds(self):
        streams = os.environ.get("FAKE_SEEDS", "QEVMaa,QEVMbbb").split(",")
        return [Seed(text, text.encode(), "fake") for text in streams if text]

    def parse(self, stream):
        return Document.parse(stream)


TARGET = Target()
'''


@dataclass(frozen=True)
class Installed:
    """An environment in which the target ``fake`` is installed.

    Attributes:
        folder: empty, to work in.
        environment: for child processes.
    """

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """``loadfuzz ARGUMENTS`` as a process; ``more`` goes into its environment."""
        return subprocess.Popen(
            [sys.executable, "-m", "loadfuzz", *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """The same, to its end."""
        with self.start(*arguments, **more) as process:
            try:
                out, err = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, **more: str) -> dict[str, object]:
        """The one object that a command prints with ``--json``."""
        done = self.run(*arguments, "--json", **more)
        assert done.stdout.count("\n") == 1, done
        value = json.loads(done.stdout)
        assert isinstance(value, dict)
        return value


def install(folder: Path, name: str, value: str, distribution: str = "fake") -> None:
    """Make ``folder`` one on which a distribution offers a target."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[loadfuzz.targets]\n{name} = {value}\n")


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The target ``fake``, installed for child processes."""
    site = tmp_path / "site"
    install(site, "fake", "fake_target:TARGET")
    (site / "fake_target.py").write_text(PROGRAM)
    work = tmp_path / "work"
    work.mkdir()
    path = os.pathsep.join([str(site), *(item for item in sys.path if item)])
    return Installed(work, {**os.environ, "PYTHONPATH": path, "COLUMNS": "80"})


@pytest.fixture
def install_target() -> Callable[[Path, str, str, str], None]:
    """See :func:`install`."""
    return install


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a developer has set must not change what is tested."""
    monkeypatch.delenv("LOADFUZZ_DEBUG", raising=False)
    yield
