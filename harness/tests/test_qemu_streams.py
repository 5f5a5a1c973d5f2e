"""Streams of a stock QEMU: understood without a problem, written back bit for bit, and
loaded and saved by the machine that is built from their own description."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path

import pytest

from loadfuzz.cli.capturing import leave_out_pages
from loadfuzz.cli.main import run_cli
from loadfuzz.inputs import WHOLE, Seed
from loadfuzz.plugins import load_target
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz_targets.foreign import ForeignTarget, machine_type_of
from savevm import LoadError
from savevm.document import Document, NodeKind
from savevm.document.inspection import describe
from savevm.foreign import foreign_machine
from savevm.load import load_from_bytes
from savevm.save import save_to_bytes

pytestmark = pytest.mark.qemu

SERIAL = ("-chardev", "null,id=serial")
MACHINES = {
    "none": ((), ()),
    "microvm": (("virtio-net-device",), ("-serial", "null")),
    "isapc": (("isa-serial,chardev=serial",), SERIAL),
    "pc": (("virtio-net-pci", "e1000", "isa-serial,chardev=serial"), SERIAL),
    "q35": (("virtio-net-pci", "e1000", "isa-serial,chardev=serial"), SERIAL),
}
"""Machine type: devices, further arguments."""
EXPECTED = {
    "none": {"ram", "timer", "globalstate"},
    "microvm": {"ram", "timer", "cpu", "serial", "virtio-net"},
    "isapc": {"ram", "timer", "cpu", "serial", "i8259", "mc146818rtc"},
    "pc": {"ram", "timer", "cpu", "serial", "virtio-net", "e1000", "PIIX3"},
    "q35": {"ram", "timer", "cpu", "serial", "virtio-net", "e1000", "ICH9LPC"},
}
"""Devices that the stream must have a section of; paths on buses left out."""


@cache
def captured(binary: str, machine: str) -> bytes:
    """The stream of a machine; one QEMU for all tests of the session."""
    devices, extra = MACHINES[machine]
    return asyncio.run(capture(MachineSpec(binary, machine, devices=devices, extra=extra)))


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def stream(machine: str, qemu_binary: str) -> bytes:
    return captured(qemu_binary, machine)


def test_the_devices_that_were_asked_for_are_in_the_stream(machine: str, stream: bytes) -> None:
    names = {section.idstr.rpartition("/")[2] for section in Document.parse(stream).sections}
    assert names >= EXPECTED[machine]


def test_a_stream_is_understood_without_a_problem(stream: bytes) -> None:
    document = Document.parse(stream)
    assert document.problems == []
    assert not [node for node in document.walk() if node.kind is NodeKind.OPAQUE]
    assert all(section.opaque_bytes == 0 for section in describe(document).sections)


def test_inspect_shows_it_without_a_problem_line(
    stream: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vm.stream"
    path.write_bytes(stream)
    assert run_cli(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("!")] == []
    assert lines[-1].endswith("no problems")
    assert max(map(len, lines[1:])) <= 80
    assert run_cli(["inspect", "--json", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["size"], report["problems"]) == (len(stream), [])


def test_a_document_writes_it_back_bit_for_bit(stream: bytes) -> None:
    document = Document.parse(stream)
    assert document.to_bytes() == stream
    assert document.edited([]) == stream


def test_a_document_of_a_file_is_the_same(stream: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vm.stream"
    path.write_bytes(stream)
    document = Document.parse_file(path)
    assert document.to_bytes() == stream
    assert [(n.path, n.start, n.end) for n in document.walk() if n.is_leaf][:200] == [
        (n.path, n.start, n.end) for n in Document.parse(stream).walk() if n.is_leaf
    ][:200]


def test_its_own_machine_loads_it_and_saves_it_bit_for_bit(stream: bytes) -> None:
    machine = foreign_machine(stream)
    load_from_bytes(machine, stream)
    assert save_to_bytes(machine) == stream


def test_a_value_is_where_the_document_says_it_is(stream: bytes) -> None:
    document = Document.parse(stream)
    edited = document.with_value(document.find("timer/cpu_clock_offset"), 0x1234_5678)
    machine = foreign_machine(edited)
    load_from_bytes(machine, edited)
    saved = Document.parse(save_to_bytes(machine))
    assert saved.find("timer/cpu_clock_offset").value == 0x1234_5678
    assert len(edited) == len(stream)


# -- as a target --------------------------------------------------------------------------------


def test_the_reference_fits_itself_to_it(machine: str, stream: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vm.stream"
    path.write_bytes(stream)
    target = load_target(f"reference@{path}")
    assert isinstance(target, ForeignTarget)
    assert target.name == f"reference@{path}"
    subject = target.open()
    before = subject.digest()
    assert subject.save() == stream
    subject.load(stream, WHOLE, None)
    assert (subject.save(), subject.digest()) == (stream, before)
    assert target.open().digest() == before
    assert target.parse(stream).problems == []
    del machine


def test_a_fitted_target_is_strict(stream: bytes) -> None:
    target = ForeignTarget("reference", Seed("vm", stream, "vm"))
    subject = target.open()
    before = subject.digest()
    document = target.parse(stream)
    refused = [
        document.with_bytes(document.find("configuration/name"), b"x" * 4),
        document.with_value(document.find("timer/footer/footer section id"), 77),
        stream[: len(stream) // 2],
    ]
    for bad in refused:
        with pytest.raises(LoadError):
            subject.load(bad, WHOLE, None)
        assert subject.digest() == before


def test_every_device_of_it_counts_in_the_digest(stream: bytes) -> None:
    target = ForeignTarget("reference", Seed("vm", stream, "vm"))
    document = target.parse(stream)
    before = target.open().digest()
    for section in document.sections:
        number = next(
            (leaf for leaf in section.fields
             if leaf.type_name in ("uint8", "uint16", "uint32", "uint64", "int64", "int32")
             and isinstance(leaf.value, int)),
            None,
        )  # fmt: skip
        if number is None or not isinstance(number.value, int):
            continue
        subject = target.open()
        subject.load(document.with_value(number, number.value ^ 1), WHOLE, None)
        assert subject.digest() != before, number.path
        subject.reset()
        assert subject.digest() == before, number.path


def test_the_machine_type_is_told_without_the_rest(machine: str, stream: bytes) -> None:
    named = machine_type_of(stream)
    assert named is not None
    assert named.startswith({"pc": "pc-i440fx", "q35": "pc-q35"}.get(machine, machine))


def test_without_its_pages_it_still_loads(machine: str, stream: bytes) -> None:
    slim = leave_out_pages(Document.parse(stream))
    if machine == "none":
        assert slim == stream  # it has no RAM
    else:
        assert len(slim) < len(stream) / 2
    own = foreign_machine(slim)
    load_from_bytes(own, slim)
    assert save_to_bytes(own) == slim
