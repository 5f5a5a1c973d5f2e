"""Folders that are there for a moment, and those that killed owners have left."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError
from loadfuzz.qemu.brief import BriefFolder, sweep

HOLDS = """
import sys, time
from pathlib import Path
from loadfuzz.qemu.brief import BriefFolder
folder = BriefFolder(Path(sys.argv[1]))
(folder.path / "image").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(60)
"""


def test_what_a_killed_owner_has_left_is_swept_and_what_is_held_is_not(tmp_path: Path) -> None:
    ours = BriefFolder(tmp_path)
    argv = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        theirs = Path(owner.stdout.readline().strip())
        assert sweep(tmp_path) == 0
        assert theirs.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert sweep(tmp_path) == 1
    assert not theirs.exists()
    assert ours.path.is_dir()
    ours.remove()
    ours.remove()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "loadfuzz-qemu-new").mkdir()
    (tmp_path / "elsewhere").mkdir()
    assert sweep(tmp_path) == 0
    assert sweep(tmp_path / "gone") == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no folder can be made in"):
        BriefFolder(tmp_path / "gone")
