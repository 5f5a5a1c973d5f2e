"""Fixtures that more than one test file of the harness needs."""

from pathlib import Path

import pytest

from loadfuzz.testing.installed import Installed


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The target ``scripted``, installed for child processes."""
    return Installed.within(tmp_path)


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set must not change what is tested."""
    monkeypatch.delenv("LOADFUZZ_DEBUG", raising=False)
