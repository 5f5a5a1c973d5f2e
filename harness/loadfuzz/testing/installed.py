"""Runs the command line where a target of the test's own is installed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.plugins import TARGETS

TIMEOUT_S: Final = 120.0
"""Longest time one command may take on a busy machine."""


def install_target(site: Path, name: str, value: str, distribution: str) -> None:
    """Make ``site`` a folder on which a distribution offers a target.

    Args:
        site: to be put on the path.
        name: of the target.
        value: ``module:attribute``.
        distribution: its name.
    """
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{TARGETS}]\n{name} = {value}\n")


@dataclass(frozen=True)
class Installed:
    """Where the target ``scripted`` is installed beside the usual ones.

    Attributes:
        folder: to work in, empty.
        environment: for child processes.
    """

    folder: Path
    environment: dict[str, str]

    @classmethod
    def within(cls, folder: Path) -> "Installed":
        """One in an empty folder."""
        install_target(folder / "site", "scripted", "loadfuzz.testing.scripted:TARGET", "scripted")
        work = folder / "work"
        work.mkdir()
        path = os.pathsep.join([str(folder / "site"), *(item for item in sys.path if item)])
        return cls(work, {**os.environ, "PYTHONPATH": path, "COLUMNS": "80"})

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
                out, err = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, **more: str) -> dict[str, object]:
        """The one object that a command prints with ``--json``.

        Raises:
            ValueError: it printed something else.
        """
        done = self.run(*arguments, "--json", **more)
        if done.stdout.count("\n") != 1:
            raise ValueError(f"no single line: {done}")
        value = json.loads(done.stdout)
        if not isinstance(value, dict):
            raise ValueError(f"no object: {done}")
        return value
