"""Taking streams from a stock QEMU: the command, its refusals, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadfuzz.cli.main import run_cli
from loadfuzz.errors import UsageError
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.incoming import deliver
from loadfuzz.qemu.machine import MachineSpec, running
from savevm.document import Document

pytestmark = pytest.mark.qemu

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test gets a temporary folder of its own, which is empty afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lfq-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []
    folder.rmdir()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_cli(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


# -- the command ------------------------------------------------------------------------------


def test_a_captured_stream_is_a_file_that_can_be_inspected(
    qemu_binary: str, cli: Cli, tmp_path: Path
) -> None:
    code, out, err = cli("seeds", "capture", "--qemu", qemu_binary, "--machine", "none")
    assert code == 0
    size = (tmp_path / "none.stream").stat().st_size
    assert out.startswith(f"none.stream: {size} bytes from QEMU ")
    assert "4 sections of 3 devices:\n  ram, timer, globalstate\n" in out
    assert "next: loadfuzz run reference --seeds none.stream\n" in out
    assert "saving its state" in err
    assert cli("inspect", "none.stream")[0] == 0


def test_devices_memory_and_further_arguments_reach_qemu(
    qemu_binary: str, cli: Cli, tmp_path: Path
) -> None:
    code, out, _ = cli(
        "seeds", "capture", "--qemu", qemu_binary, "--machine", "microvm", "--memory", "8",
        "--device", "virtio-net-device", "--out", "vm", "--", "-serial", "null",
    )  # fmt: skip
    assert code == 0
    document = Document.parse((tmp_path / "vm").read_bytes())
    names = {section.idstr for section in document.sections}
    assert any(name.endswith("virtio-net") for name in names)
    assert "serial" in names
    assert document.find("ram/START/mem size/microvm.ram/ram block length").value == 8 << 20
    assert "problem" not in out


def test_without_pages_the_file_is_small(qemu_binary: str, cli: Cli, tmp_path: Path) -> None:
    base = ("seeds", "capture", "--qemu", qemu_binary, "--machine", "microvm", "--out")
    assert cli(*base, "whole")[0] == 0
    assert cli(*base, "slim", "--without-pages")[0] == 0
    assert (tmp_path / "slim").stat().st_size < (tmp_path / "whole").stat().st_size / 2
    assert cli("inspect", "slim")[0] == 0


def test_a_captured_stream_is_fuzzed_on_its_own_machine(
    qemu_binary: str, cli: Cli, tmp_path: Path
) -> None:
    base = ("seeds", "capture", "--qemu", qemu_binary, "--machine", "microvm", "--without-pages")
    assert cli(*base, "--out", "vm")[0] == 0
    code, out, err = cli(
        "run", "reference", "--seeds", "vm", "--execs", "60", "--workers", "1",
        "--engine", "native", "--seed", "1", "--out", "campaign",
    )  # fmt: skip
    assert code == 0, out + err
    assert "on the machine 'microvm'" in out + err
    assert "refused" not in out + err


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--machine", "pdp11"), "unsupported machine type"),
        (("--machine", "none", "--device", "flux-capacitor"), "flux-capacitor"),
        (("--machine", "none", "--", "-no-such-option"), "invalid option"),
    ],
    ids=["machine", "device", "option"],
)
def test_what_qemu_does_not_know_it_says_itself(
    arguments: tuple[str, ...], words: str, qemu_binary: str, cli: Cli, tmp_path: Path
) -> None:
    code, _, err = cli("seeds", "capture", "--qemu", qemu_binary, *arguments)
    assert code == 2
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_be_saved_says_why(
    qemu_binary: str, cli: Cli, tmp_path: Path
) -> None:
    code, _, err = cli(
        "seeds", "capture", "--qemu", qemu_binary, "--machine", "pc", "--device", "nvme,serial=x"
    )
    assert code == 2
    assert "non-migratable device" in err
    assert list(tmp_path.iterdir()) == []


def test_a_qemu_that_dies_while_it_loads_is_a_verdict(qemu_binary: str) -> None:
    verdict = asyncio.run(deliver(MachineSpec(qemu_binary, "none"), b"no stream at all"))
    assert not verdict.accepted
    assert "Not a migration stream" in verdict.message
    assert verdict.returncode == 1


def test_cancelling_ends_qemu(qemu_binary: str) -> None:
    pids: list[int] = []

    async def main() -> None:
        started = asyncio.Event()

        async def hold() -> None:
            async with running(MachineSpec(qemu_binary, "none")) as qemu:
                answer = await qemu.execute("query-status")
                assert isinstance(answer, dict)
                pids.append(qemu._process.pid)
                started.set()
                await asyncio.sleep(60)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(hold())
            await started.wait()
            task.cancel()

    asyncio.run(main())
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.qemu
def test_a_folder_that_somebody_left_who_was_killed_is_removed_by_the_next(
    qemu_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "loadfuzz-qemu-left"
    left.mkdir()
    (left / "owner").touch()
    (left / "stderr").write_text("its last words")

    async def main() -> None:
        async with running(MachineSpec(qemu_binary, "none")) as qemu:
            assert not left.exists()
            assert qemu.folder.parent == tmp_path

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_with_too_long_a_name_says_so(
    qemu_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(UsageError, match="TMPDIR"):
        asyncio.run(capture(MachineSpec(qemu_binary, "none")))
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
