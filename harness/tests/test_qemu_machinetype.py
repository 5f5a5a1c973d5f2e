"""A finding is run as the machine that its streams name, whatever an alias means elsewhere."""

from dataclasses import replace

import pytest

from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.findings import Earlier, Finding, Violation
from loadfuzz.inputs import Input
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.machinetype import as_found, type_in, type_of
from loadfuzz.repro.qemu_script import write_script

PC = MachineSpec("qemu", "pc,usb=on")
CRASH = Violation("clean-error", "it died", "accepted or refused", "SIGABRT")
DIED = Execution(ExitKind.CRASHED, Depth.FIRST_SECTION)


def stream(name: bytes) -> bytes:
    """The beginning of a stream that was saved by a machine."""
    return b"QEVM\0\0\0\3\7" + len(name).to_bytes(4, "big") + name + b"\0"


def finding(parent: bytes, last: bytes, *before: tuple[bytes, bytes]) -> Finding:
    return Finding(
        "qemu:pc", Input(last, before=tuple(item for _, item in before)), CRASH, DIED,
        parent_stream=parent, earlier=tuple(Earlier(made_from) for made_from, _ in before),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (stream(b"pc-i440fx-7.2"), "pc-i440fx-7.2"),
        (stream(b"none"), "none"),
        (stream(b"pc,accel=kvm"), ""),
        (stream(b"-x"), ""),
        (stream(b"a\xff"), ""),
        (stream(b"a" * 65), ""),
        (b"QEVM\0\0\0\3\0", ""),
        (b"", ""),
    ],
)
def test_a_stream_names_its_machine_or_none(data: bytes, name: str) -> None:
    assert type_in(data) == name


def test_what_an_input_was_made_from_counts_before_the_input() -> None:
    good, changed = stream(b"pc-i440fx-7.2"), stream(b"pc-i440fx-7.3")
    assert type_of(finding(good, changed)) == "pc-i440fx-7.2"
    assert type_of(finding(b"", good, (b"", changed), (b"", good))) == "pc-i440fx-7.2"
    assert type_of(finding(b"", b"QEVM")) == ""


def test_the_type_replaces_the_alias_and_nothing_else() -> None:
    good = stream(b"pc-i440fx-7.2")
    assert as_found(PC, finding(good, good)) == replace(PC, machine="pc-i440fx-7.2,usb=on")
    assert as_found(replace(PC, machine="pc"), finding(good, good)).machine == "pc-i440fx-7.2"
    assert as_found(PC, finding(b"", b"QEVM")) == PC


def test_the_script_starts_the_machine_that_the_streams_name() -> None:
    text = write_script(PC, finding(stream(b"pc-i440fx-7.2"), b"QEVM"))
    assert "-machine pc-i440fx-7.2,usb=on " in text
