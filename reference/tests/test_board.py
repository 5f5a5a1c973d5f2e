"""Machines are built the same every time, cheaply, and ``-M none`` as QEMU has it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from savevm.board import (
    DEVICE_SETS,
    DEVICES,
    FULL,
    RAM,
    full_machine,
    machine_of,
    machine_with,
    none_machine,
    small_machine,
)
from savevm.devices.ps2 import PS2Keyboard
from savevm.document import Document
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.profile import SEED
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.registry import MigrationParams
from savevm.save import (
    qemu_savevm_state_begin,
    qemu_savevm_state_complete,
    qemu_savevm_state_header,
    qemu_savevm_state_pending,
    save_to_bytes,
)
from savevm.testing.copies import save_device

QEMU_NONE = bytes.fromhex(
    "5145564d0000000307000000046e6f6e65010000000203"
    "72616d0000000000000004000000000000000400000000000000107e00000002"
    "030000000200000000000000107e00000002"
    "04000000000574696d65720000000000000002"
    "0000000000000000000000000000000000000000000000007e00000000"
    "04000000040b676c6f62616c737461746500000000000000010000000a7072656c61756e6368"
    + "00" * 91
    + "7e00000004"
    + "00"
)
"""What QEMU 7.2.22 sends for ``-M none -S``, up to and with the EOF mark."""


@pytest.mark.parametrize("name", sorted(DEVICE_SETS))
def test_two_builds_of_one_set_are_equal_and_load_each_other(name: str) -> None:
    one, other = machine_of(name), machine_of(name)
    assert one.digest() == other.digest()
    ids = [(se.section_id, se.idstr, se.instance_id) for se in one.savevm.handlers]
    assert ids == [(se.section_id, se.idstr, se.instance_id) for se in other.savevm.handlers]
    stream = save_to_bytes(one)
    load_from_bytes(other, stream)
    assert save_to_bytes(other) == stream


@pytest.mark.parametrize("name", sorted(DEVICE_SETS))
def test_a_reset_machine_is_as_new_but_for_its_clock(name: str) -> None:
    machine, fresh = machine_of(name), machine_of(name)
    machine.step(300)
    machine.reset()
    for device in machine.devices:
        if device not in ("timer", "globalstate"):
            assert save_device(machine, device) == save_device(fresh, device)


def test_the_full_machine_has_every_device_that_can_be_migrated() -> None:
    machine = full_machine()
    assert set(machine.devices) == set(DEVICES) - {"icount", "passthrough"}
    assert set(FULL) - {RAM} == set(machine.devices)
    assert machine.ram is not None
    assert len(machine.nics) == 1
    assert machine.check_invariants() == []


def test_the_small_machine_has_cpu_memory_timer_and_nic() -> None:
    machine = small_machine(ram_bytes=8192)
    assert list(machine.devices) == ["timer", "cpu", "nic"]
    assert machine.ram is not None
    assert [block.used_length for block in machine.ram.blocks] == [8192]


def test_a_profile_goes_to_the_machine() -> None:
    assert full_machine(SEED).profile is SEED
    assert machine_of("none", SEED).profile is SEED


def test_a_device_can_be_replaced_by_a_subclass() -> None:
    class Careless(PS2Keyboard):
        def check_ring(self) -> None:
            return None

    machine = machine_with("ps2", replace={"ps2": Careless})
    assert type(machine.devices["ps2"]) is Careless


@pytest.mark.parametrize("names", [("timer", "timer"), ("floppy",), ("cpu", "ram", "cpu")])
def test_devices_that_do_not_exist_or_come_twice_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"twice|no device is called 'floppy'; there are ram, "):
        machine_with(*names)


# -- -M none ---------------------------------------------------------------------------------


def migrated(machine: Machine) -> bytes:
    """The stream of a migration, which makes a round only if pages are pending;
    a snapshot always makes one."""
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    qemu_savevm_state_header(f, machine)
    qemu_savevm_state_begin(f, machine, MigrationParams())
    assert qemu_savevm_state_pending(f, machine, 0) == 0
    qemu_savevm_state_complete(f, machine)
    return bytes(sink.data)


def test_the_none_machine_sends_what_qemu_sends() -> None:
    stream = migrated(none_machine())
    assert stream[: len(QEMU_NONE)] == QEMU_NONE
    assert stream[len(QEMU_NONE)] == 6


def test_the_none_machine_loads_what_qemu_sends() -> None:
    machine = none_machine()
    load_from_bytes(machine, QEMU_NONE + b"\x06\0\0\0\x02{}")
    assert machine.devices["globalstate"].loaded_runstate == "prelaunch"  # type: ignore[attr-defined]


@pytest.mark.parametrize("edit", ["size 0", "ticks"])
def test_the_none_machine_takes_edits_that_qemu_takes(edit: str) -> None:
    stream = QEMU_NONE
    if edit == "size 0":
        stream = stream.replace(b"\0\0\0\x0aprelaunch", b"\0\0\0\0prelaunch")
    else:
        at = stream.index(b"timer") + 5 + 8
        stream = stream[:at] + b"\xff" * 24 + stream[at + 24 :]
    machine = none_machine()
    machine.suppress_vmdesc = True
    load_from_bytes(machine, stream + b"\x06\0\0\0\x02{}")


def test_the_none_machine_refuses_a_run_state_without_end() -> None:
    with pytest.raises(LoadError, match="invalid parameter value: prelaunchX"):
        load_from_bytes(none_machine(), QEMU_NONE.replace(b"prelaunch\0", b"prelaunchX"))


@pytest.mark.qemu
@pytest.mark.parametrize("save", [save_to_bytes, migrated], ids=["snapshot", "migration"])
def test_a_real_qemu_loads_the_none_machines_stream(
    qemu_binary: str, tmp_path: Path, save: Callable[[Machine], bytes]
) -> None:
    machine = none_machine()
    machine.step(3)
    file = tmp_path / "none.stream"
    file.write_bytes(save(machine))
    assert incoming_status(qemu_binary, file) == "completed"
    file.write_bytes(save(machine).replace(b"prelaunch\0", b"prelaunchX"))
    assert incoming_status(qemu_binary, file) != "completed"


def incoming_status(qemu_binary: str, file: Path) -> str:
    """How an incoming migration of ``file`` ends; "gone" if QEMU exits first."""
    command = [
        qemu_binary, "-M", "none", "-nodefaults", "-display", "none", "-S",
        "-qmp", "stdio", "-incoming", f"exec:cat {file}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            qemu.stdin.write('{"execute": "qmp_capabilities"}\n')
            # Each answer is a round trip; a load of 700 bytes takes a few.
            for _ in range(10_000):
                qemu.stdin.write('{"execute": "query-migrate"}\n')
                qemu.stdin.flush()
                answer = qemu.stdout.readline()
                if not answer:
                    return "gone"
                status = json.loads(answer).get("return", {}).get("status", "")
                if status in ("completed", "failed"):
                    return str(status)
            return "undecided"
        except BrokenPipeError:
            return "gone"
        finally:
            qemu.kill()


@pytest.mark.parametrize("name", sorted(DEVICE_SETS))
def test_a_document_of_every_set_has_no_problem_and_says_where_fields_are(name: str) -> None:
    machine = machine_of(name)
    machine.step(200)
    stream = save_to_bytes(machine)
    document = Document.parse(stream, machine_factory=lambda: machine_of(name))
    assert document.problems == []
    assert document.to_bytes() == stream
    saved = {se.idstr for se in machine.savevm.handlers}
    assert {section.idstr for section in document.sections} == saved
