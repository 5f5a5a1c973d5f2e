"""Programs that die with us, however they are started."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadfuzz import launch
from loadfuzz.launching import launched

STARTS = """
import subprocess, sys, time
from loadfuzz.launching import launched
print(subprocess.Popen(launched(["/bin/sleep", "60"])).pid, flush=True)
time.sleep(60)
"""
WRITES = "exec head -c 200000 /dev/zero 2>/dev/null"
"""A program that leaves its signals as they are, and says with 1 that it could not write."""
STRICTER = """
import resource as r, subprocess, sys
from loadfuzz import launching
if sys.argv[1] == "python":
    launching._setpriv = lambda: None
for kind in (r.RLIMIT_AS, r.RLIMIT_FSIZE):
    r.setrlimit(kind, (1 << 30, 1 << 30))
says = "import resource as r; print(r.getrlimit(r.RLIMIT_AS), r.getrlimit(r.RLIMIT_FSIZE))"
sys.exit(subprocess.call(launching.launched([sys.executable, "-c", says], 1 << 31, 1 << 31)))
"""
LIMITS = "import resource as r; print(r.getrlimit(r.RLIMIT_AS), r.getrlimit(r.RLIMIT_CORE)[0])"


@pytest.fixture(params=["setpriv", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr("loadfuzz.launching._setpriv", lambda: None)
    return str(request.param)


def test_the_program_is_run_with_its_arguments_and_status(way: str) -> None:
    done = subprocess.run(
        launched(["/bin/sh", "-c", 'echo "$1"; exit 7', "sh", "a 'b' $c"]), capture_output=True
    )
    assert (done.returncode, done.stdout) == (7, b"a 'b' $c\n")


def test_its_address_space_is_limited_and_it_leaves_no_core(way: str) -> None:
    space = 1 << 30
    done = subprocess.run(
        launched([sys.executable, "-c", LIMITS], space), capture_output=True, text=True
    )
    assert done.stdout == f"({space}, {space}) 0\n"


def test_a_stricter_hard_limit_of_ours_stays(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", STRICTER, way], capture_output=True, text=True)
    strict = 1 << 30
    assert (done.returncode, done.stdout) == (0, f"({strict}, {strict}) ({strict}, {strict})\n")


def test_a_file_of_it_grows_no_further_than_its_limit_and_it_lives_on(
    way: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        done = subprocess.run(
            launched(["/bin/sh", "-c", WRITES], file_size=1 << 16),
            stdout=file, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
    assert path.stat().st_size == 1 << 16


def test_without_a_limit_it_has_ours(way: str) -> None:
    done = subprocess.run(launched([sys.executable, "-c", LIMITS]), capture_output=True, text=True)
    assert done.stdout == f"{resource.getrlimit(resource.RLIMIT_AS)} 0\n"


def test_a_program_whose_parent_is_gone_already_does_not_start(way: str) -> None:
    command = ["1" if word == str(os.getpid()) else word for word in launched(["/bin/echo", "x"])]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stdout) == (launch.ORPHANED, b"")


def test_it_dies_when_its_starter_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        os.kill(child, 0)
        starter.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not _runs(child):
            return
        time.sleep(0.05)
    pytest.fail("it is still there")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
