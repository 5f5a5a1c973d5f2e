"""The device-only save: what is in the file, what fails, and who runs afterwards."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from savevm.block import BlockDevice
from savevm.device_state import xen_save_devices_state
from savevm.errors import SaveError
from savevm.load import load_from_bytes
from savevm.machine import Machine, RunState
from savevm.profile import STRICT
from savevm.qemufile import QEMUFileWriter
from savevm.registry import SaveVMHandlers
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

CHIP = VMStateDescription("chip", version_id=2, fields=(fields.uint32("value"),))
BOTH_RUN_STATES = pytest.mark.parametrize("runstate", [RunState.RUNNING, RunState.PAUSED])


def _no_setup(f: QEMUFileWriter, opaque: object) -> int:
    raise AssertionError("RAM is not part of a device-only save")


def machine_of(runstate: RunState = RunState.RUNNING) -> tuple[Machine, State]:
    machine, chip = Machine(), State(value=0x01020304)
    ram = SaveVMHandlers(
        save_live_setup=_no_setup, save_live_iterate=_no_setup, save_live_complete=_no_setup
    )
    machine.savevm.register_savevm_live(None, "ram", 0, 4, ram, None)
    machine.savevm.vmstate_register(None, 0, CHIP, chip)
    machine.board.runstate = runstate
    return machine, chip


def refuse(opaque: object) -> int:
    return -errno.EINVAL


def test_the_file_holds_the_devices_and_neither_ram_nor_vmdesc(tmp_path: Path) -> None:
    machine, _ = machine_of()
    path = tmp_path / "devices"
    log = TraceLog()
    xen_save_devices_state(machine, path, trace=log)
    assert path.read_bytes().hex() == (
        "5145564d" "00000003"  # magic and version, no configuration
        "04" "00000001" "04" "63686970" "00000000" "00000002"  # FULL, section id 1, "chip"
        "01020304" "7e" "00000001" "00"
    )  # fmt: skip
    assert log.named("vmstate_save") == [("chip", "chip")]


def test_what_was_saved_loads_again(tmp_path: Path) -> None:
    machine, _ = machine_of()
    xen_save_devices_state(machine, tmp_path / "devices")
    other, chip = machine_of()
    vars(chip)["value"] = 0
    load_from_bytes(other, (tmp_path / "devices").read_bytes())
    assert vars(chip) == {"value": 0x01020304}


def test_an_older_file_is_overwritten_whole(tmp_path: Path) -> None:
    path = tmp_path / "devices"
    path.write_bytes(b"x" * 10_000)
    machine, _ = machine_of()
    xen_save_devices_state(machine, os.fspath(path))
    assert path.stat().st_size == 36


@BOTH_RUN_STATES
def test_the_machine_is_stopped_meanwhile_and_then_as_it_was(
    tmp_path: Path, runstate: RunState
) -> None:
    machine, chip = machine_of(runstate)
    seen: list[RunState] = []

    def note(opaque: object) -> int:
        seen.append(machine.runstate)
        return 0

    machine.savevm.vmstate_register(None, 0, VMStateDescription("watch", pre_save=note), chip)
    disk = BlockDevice("hd0", 4096)
    machine.block_devices.append(disk)
    xen_save_devices_state(machine, tmp_path / "devices")
    assert seen == [RunState.SAVE_VM if runstate is RunState.RUNNING else runstate]
    assert machine.runstate is runstate
    assert (disk.drains, disk.flushes) == (1, 1)


@BOTH_RUN_STATES
@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("", errno.EISDIR, "Is a directory"),
        ("missing/devices", errno.ENOENT, "No such file or directory"),
        ("file/devices", errno.ENOTDIR, "Not a directory"),
        ("loop", errno.ELOOP, "Too many levels of symbolic links"),
        ("n" * 300, errno.ENAMETOOLONG, "File name too long"),
        ("nul\0byte", errno.EINVAL, "Invalid argument"),
    ],
)
def test_a_path_that_cannot_be_opened_is_named_with_the_reason(
    tmp_path: Path, name: str, code: int, text: str, runstate: RunState
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    machine, _ = machine_of(runstate)
    path = os.path.join(tmp_path, name)
    with pytest.raises(SaveError) as caught:
        xen_save_devices_state(machine, path)
    assert caught.value.reason == f"Could not open '{path}': {text}"
    assert caught.value.errno == code
    assert machine.runstate is runstate


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    machine, _ = machine_of()
    with pytest.raises(SaveError, match="Permission denied") as caught:
        xen_save_devices_state(machine, tmp_path / "devices")
    assert caught.value.errno == errno.EACCES
    assert machine.is_running()


def test_a_folder_that_cannot_be_written_is_refused_for_root_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(path: object, mode: str) -> object:
        raise OSError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("builtins.open", unwritable)
    machine, _ = machine_of()
    with pytest.raises(SaveError, match=r"Could not open '.*': Permission denied") as caught:
        xen_save_devices_state(machine, tmp_path / "devices")
    assert caught.value.errno == errno.EACCES
    assert machine.is_running()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@BOTH_RUN_STATES
def test_a_full_disk_is_an_io_error(runstate: RunState) -> None:
    machine, _ = machine_of(runstate)
    with pytest.raises(SaveError) as caught:
        xen_save_devices_state(machine, "/dev/full")
    assert (caught.value.reason, caught.value.errno) == ("An IO error has occurred", errno.ENOSPC)
    assert machine.runstate is runstate


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_in_the_seed_the_last_bytes_may_be_lost_in_silence() -> None:
    machine, _ = machine_of()
    machine.profile = replace(STRICT, close_errors_ignored=True)
    xen_save_devices_state(machine, "/dev/full")
    assert machine.is_running()


@BOTH_RUN_STATES
def test_a_device_that_refuses_is_an_io_error_with_its_cause(
    tmp_path: Path, runstate: RunState
) -> None:
    machine, chip = machine_of(runstate)
    stubborn = VMStateDescription("stubborn", pre_save=refuse)
    machine.savevm.vmstate_register(None, 0, stubborn, chip)
    with pytest.raises(SaveError, match=r"^An IO error has occurred$") as caught:
        xen_save_devices_state(machine, tmp_path / "devices")
    assert isinstance(caught.value.__cause__, SaveError)
    assert machine.runstate is runstate
