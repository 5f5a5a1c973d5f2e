"""Processes of one machine, copied where that goes and started where not."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from loadfuzz.qemu import starter as starter_module
from loadfuzz.qemu import template
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.starter import HeldFile, Starter

WAIT_S = 20.0
FAKE = """#!{python} -IS
import sys
print(next(open("/proc/self/maps")).partition("-")[0], flush=True)
with open(sys.argv[-1], "w") as file:
    file.write("for " + sys.argv[2])
"""
"""Prints where it is in memory, and writes to the file that its last argument names."""


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    path = tmp_path / "fake-qemu"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    return MachineSpec(str(path), "fake")


def arguments(names: Sequence[str]) -> Sequence[str]:
    return names


class Places:
    """Starts one process after the other and tells where each was."""

    def __init__(self, starter: Starter, folder: Path) -> None:
        self._starter = starter
        self._folder = folder

    def next(self) -> str:
        number = len(list(self._folder.glob("said*")))
        said, file = self._folder / f"said{number}", self._folder / f"file{number}"
        with file.open("w+b") as held:
            process = self._starter.start(said, [HeldFile(file, held.fileno())])
            try:
                until = time.monotonic() + WAIT_S
                while process.returncode is None:
                    assert time.monotonic() < until
                    time.sleep(0.002)
            finally:
                process.channel.close()
                asyncio.run(process.end())
        assert file.read_text() == "for fake"
        return said.read_text()


def located(
    spec: MachineSpec, folder: Path, body: Callable[[Starter, Places], list[str]], *, copies: bool
) -> list[str]:
    starter = Starter(spec, arguments, 1, 1 << 20)
    if copies:
        asyncio.run(starter.prepare())
        assert starter.copies
    try:
        return body(starter, Places(starter, folder))
    finally:
        starter.end()
        assert not starter.copies


@pytest.mark.usefixtures("copying")
def test_a_template_that_goes_is_kept_until_there_is_another(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_short(starter: Starter) -> None:
        async with asyncio.timeout(0.0):
            await starter.freshen()

    def body(starter: Starter, places: Places) -> list[str]:
        found = [places.next()]
        with pytest.raises(TimeoutError):
            asyncio.run(cut_short(starter))
        assert starter.copies
        return [*found, places.next()]

    monkeypatch.setattr(starter_module, "COPIES_MAX", 1)
    one, two = located(spec, tmp_path, body, copies=True)
    assert one == two


@pytest.mark.usefixtures("copying")
def test_a_template_that_somebody_killed_is_replaced_but_not_for_ever(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(starter: Starter, places: Places) -> list[str]:
        alive = []
        for _ in range(3):
            if starter._template is not None:
                os.kill(starter._template._popen.pid, signal.SIGKILL)
            places.next()  # by starting it
            asyncio.run(starter.freshen())
            alive.append(starter.copies)
        assert alive == [True, False, False]
        return []

    monkeypatch.setattr(starter_module, "FAILURES_MAX", 2)
    located(spec, tmp_path, body, copies=True)


@pytest.mark.usefixtures("copying")
def test_copies_have_one_layout_of_memory_until_there_is_another_template(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(starter: Starter, places: Places) -> list[str]:
        found = [places.next()]
        asyncio.run(starter.freshen())
        found.append(places.next())
        asyncio.run(starter.freshen())
        found.append(places.next())
        assert starter.copies
        return found

    monkeypatch.setattr(starter_module, "COPIES_MAX", 2)
    one, two, three = located(spec, tmp_path, body, copies=True)
    assert one == two != three


def test_processes_that_are_started_have_each_their_own(spec: MachineSpec, tmp_path: Path) -> None:
    found = located(
        spec, tmp_path, lambda _, places: [places.next() for _ in range(3)], copies=False
    )
    assert len(set(found)) == 3


def test_where_nothing_can_be_copied_it_starts_them(
    spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "supported", lambda: False)
    starter = Starter(spec, arguments, 1, 1 << 20)
    asyncio.run(starter.prepare())
    assert not starter.copies
    Places(starter, tmp_path).next()
    starter.end()
