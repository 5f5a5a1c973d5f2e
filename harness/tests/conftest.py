"""Fixtures that more than one test file of the harness needs."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadfuzz.qemu.ptrace import TraceError
from loadfuzz.qemu.template import Template
from loadfuzz.testing.installed import Installed


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The target ``scripted``, installed for child processes."""
    return Installed.within(tmp_path)


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set must not change what is tested."""
    monkeypatch.delenv("LOADFUZZ_DEBUG", raising=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.5 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def copying() -> None:
    """Skips where processes cannot be copied (:mod:`loadfuzz.qemu.template`)."""

    async def try_it() -> None:
        program = [sys.executable, "-I", "-S", "-c", ""]
        (await Template.start(lambda _: program, 0, dict(os.environ))).end()

    try:
        asyncio.run(try_it())
    except TraceError as error:
        pytest.skip(str(error))
