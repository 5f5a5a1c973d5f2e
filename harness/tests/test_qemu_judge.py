"""A stock QEMU as the judge of what the reference writes, and of what a Document edits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.incoming import IncomingVerdict, deliver
from loadfuzz.qemu.machine import MachineSpec
from savevm import LoadError
from savevm.board import none_machine
from savevm.document import Consistency, Document, Role, Value
from savevm.load import load_from_bytes
from savevm.ram.items import RAMFlag
from savevm.save import save_to_bytes
from savevm.testing.streams import footer

pytestmark = pytest.mark.qemu

NONE = save_to_bytes(none_machine())
PAGE_SIZE = 4096


def judged(binary: str, stream: bytes) -> IncomingVerdict:
    """What QEMU's ``-M none`` makes of a stream."""
    return asyncio.run(deliver(MachineSpec(binary, "none"), stream))


# -- what the reference writes -------------------------------------------------------------------


def test_qemu_loads_the_none_machine_of_the_reference(qemu_binary: str) -> None:
    verdict = judged(qemu_binary, NONE)
    assert verdict.accepted, verdict.message


def test_qemu_saves_what_the_reference_has_saved(qemu_binary: str) -> None:
    machine = none_machine()
    machine.step(1234)
    stream = save_to_bytes(machine)
    spec = MachineSpec(qemu_binary, "none")
    verdict = asyncio.run(deliver(spec, stream, save_again=True))
    assert verdict.accepted, verdict.message
    ours, theirs = Document.parse(stream), Document.parse(verdict.saved)
    assert theirs.problems == []
    for path in ("timer/cpu_ticks_offset", "timer/cpu_clock_offset"):
        assert ours.find(path).value != 0
        assert ours.find(path).value == theirs.find(path).value


def test_the_reference_loads_the_none_machine_of_qemu(qemu_binary: str) -> None:
    stream = asyncio.run(capture(MachineSpec(qemu_binary, "none")))
    machine = none_machine()
    load_from_bytes(machine, stream)
    ours, theirs = Document.parse(save_to_bytes(machine)), Document.parse(stream)
    for name in ("timer", "globalstate"):
        section = next(s for s in theirs.sections if s.idstr == name)
        own = next(s for s in ours.sections if s.idstr == name)
        assert own.section_id == section.section_id
        assert ours.bytes_of(own) == theirs.bytes_of(section)
    assert ours.vmdesc is not None
    assert theirs.vmdesc is not None
    assert ours.bytes_of(ours.vmdesc) == theirs.bytes_of(theirs.vmdesc)


# -- edits that QEMU and the reference judge -----------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """An edit of the none machine's stream.

    Attributes:
        change: makes the edited stream.
        accepted: by QEMU 7.2.
        words: that QEMU says when it refuses, and that our LoadError quotes.
        strict: accepted by the reference, where that is another verdict.
    """

    change: Callable[[Document], bytes]
    accepted: bool
    words: str = ""
    strict: bool | None = None


def put(path: str, value: Value, consistency: Consistency = Consistency.KEEP) -> Callable[
    [Document], bytes
]:  # fmt: skip
    return lambda document: document.with_value(document.find(path), value, consistency)


def end_of_sections(document: Document) -> int:
    return document.sections[-1].end


def as_part(document: Document) -> bytes:
    timer = next(section for section in document.sections if section.idstr == "timer")
    again = b"\x02" + timer.section_id.to_bytes(4, "big")
    again += document.read(timer.header_end, timer.payload_end) + footer(timer.section_id)
    return document.inserted(timer.end, again)


EDITS = {
    "nothing": Edited(lambda document: document.to_bytes(), True),
    "machine-type": Edited(put("configuration/name", b"nonx"), False, "Machine type received is"),
    "no-vmdesc": Edited(lambda document: document.read(0, end_of_sections(document) + 1), True),
    "no-eof": Edited(lambda document: document.read(0, end_of_sections(document)), False),
    "cut-in-field": Edited(
        lambda document: document.read(0, document.find("globalstate/runstate").start + 20), False
    ),
    "section-twice": Edited(
        lambda document: document.duplicated(document.find("timer")), True, strict=False
    ),
    "part-of-full": Edited(as_part, True, strict=False),
    "footer-id": Edited(
        put("timer/footer/footer section id", 9), False, "Mismatched section id in footer"
    ),
    "footer-mark": Edited(put("timer/footer/footer mark", 0), False, "Missing section footer"),
    "section-id": Edited(put("timer/section id", 0x63, Consistency.REPAIR), True),
    "idstr": Edited(
        put("timer/idstr", "timex", Consistency.REPAIR), False, "Unknown savevm section or instance"
    ),
    "idstr-empty": Edited(
        put("timer/idstr", "", Consistency.REPAIR), False, "Unable to read ID string for section 0"
    ),
    "version-newer": Edited(put("timer/version id", 3), False, "unsupported version 3"),
    "version-older": Edited(put("timer/version id", 0), False, "version_id 0 is too old"),
    "section-type": Edited(put("timer/section type", 9), False, "Unknown savevm section type 9"),
    "junk-behind": Edited(lambda document: document.to_bytes() + b"junk", True),
    "vmdesc-4-gib": Edited(put("vmdesc/vmdesc size", 0xFFFFFFFF), True, strict=False),
    "no-magic": Edited(put("header/magic", 0), False, "Not a migration stream"),
    "version-2": Edited(put("header/version", 2), False, "SaveVM v2 format is obsolete"),
}


@pytest.mark.parametrize("name", EDITS)
def test_qemu_and_the_reference_judge_an_edited_stream_alike(name: str, qemu_binary: str) -> None:
    edit = EDITS[name]
    stream = edit.change(Document.parse(NONE))
    verdict = judged(qemu_binary, stream)
    assert (verdict.accepted, verdict.message if edit.accepted else "") == (edit.accepted, "")
    assert edit.words in verdict.message
    assert verdict.returncode is None or verdict.returncode > 0
    machine = none_machine()
    expected = edit.accepted if edit.strict is None else edit.strict
    if expected:
        load_from_bytes(machine, stream)
        return
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine, stream)
    assert edit.words in caught.value.qemu


# -- edits that QEMU keeps -----------------------------------------------------------------------


@cache
def microvm(binary: str) -> bytes:
    return asyncio.run(capture(microvm_spec(binary)))


def microvm_spec(binary: str) -> MachineSpec:
    return MachineSpec(binary, "microvm", extra=("-serial", "null"))


def test_a_page_and_a_field_that_were_edited_are_there_when_qemu_saves_again(
    qemu_binary: str,
) -> None:
    stream = microvm(qemu_binary)
    document = Document.parse(stream)
    page = bytes(range(256)) * (PAGE_SIZE // 256)
    zero = document.find("ram/PART[0]/microvm.ram/zero 0x5000")
    with_page = document.with_bytes(
        zero, (0x5000 | RAMFlag.PAGE | RAMFlag.CONTINUE).to_bytes(8, "big") + page
    )
    document = Document.parse(with_page)
    scratch = document.find("serial/state/scr")
    assert scratch.value == 0
    edited = document.with_value(scratch, 0x5A)
    assert Document.parse(edited).problems == []

    spec = microvm_spec(qemu_binary)
    verdict = asyncio.run(deliver(spec, edited, save_again=True))
    assert verdict.accepted, verdict.message
    saved = Document.parse(verdict.saved)
    assert saved.problems == []
    assert saved.find("serial/state/scr").value == 0x5A
    item = saved.find("ram/PART[0]/microvm.ram/page 0x5000")
    assert next(leaf for leaf in item.leaves() if leaf.role is Role.RAM_PAGE).size == PAGE_SIZE
    assert saved.bytes_of(item).endswith(page)


def test_without_edits_qemu_saves_the_same_devices_again(qemu_binary: str) -> None:
    stream = microvm(qemu_binary)
    verdict = asyncio.run(deliver(microvm_spec(qemu_binary), stream, save_again=True))
    assert verdict.accepted, verdict.message
    before, after = Document.parse(stream), Document.parse(verdict.saved)
    assert [s.path for s in before.sections] == [s.path for s in after.sections]
    for one, other in zip(before.sections, after.sections, strict=True):
        if one.idstr == "serial":
            assert before.bytes_of(one) == after.bytes_of(other)


def test_qemu_refuses_a_stream_that_ends_inside_a_device(qemu_binary: str) -> None:
    document = Document.parse(microvm(qemu_binary))
    serial = next(section for section in document.sections if section.idstr == "serial")
    verdict = asyncio.run(
        deliver(microvm_spec(qemu_binary), document.read(0, serial.header_end + 3))
    )
    assert not verdict.accepted
    assert verdict.returncode == 1
