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
