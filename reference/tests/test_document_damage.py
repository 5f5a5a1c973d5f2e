"""Damaged streams: the damage is named at its place, and parsing goes on behind it.

The streams are the real one of section 8 of the wire format and one of the
reference's full machine; the damage is done to the section ``timer``.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest

from savevm.board import full_machine
from savevm.document import Document, Role, SectionNode
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

STREAMS = ["none", "full by machine", "full by vmdesc"]


@cache
def full_stream() -> bytes:
    machine = full_machine()
    machine.step(40)
    return save_to_bytes(machine)


def stream_called(name: str) -> bytes:
    return QEMU_NONE_STREAM if name == "none" else full_stream()


def parse(name: str, data: bytes) -> Document:
    document = Document.parse(data, full_machine if name == "full by machine" else None)
    assert not fault_of(document, data)
    return document


def timer_of(document: Document) -> SectionNode:
    return next(s for s in document.sections if s.idstr == "timer")


def told(document: Document) -> list[tuple[int | None, str]]:
    return [(problem.offset, "/".join(problem.path)) for problem in document.problems]


@cache
def known_devices() -> set[str]:
    return {section.idstr for section in Document.parse(full_stream()).sections}


def others_of(document: Document) -> list[tuple[str, int, int]]:
    """Every section that was not damaged: what it is, its length, its leaves."""
    sections = [
        (f"{s.type_label} {s.idstr} {s.instance_id}", s.size, len(list(s.leaves())))
        for s in document.sections
    ]
    known = known_devices() - {"timer"}
    return [section for section in sections if section[0].split()[1] in known]


Damage = Callable[[bytes, SectionNode], tuple[bytes, int, str]]
"""From stream and section to damaged stream, offset and path of the problem."""


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def footer_id(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.end - 1, b"\x99"), s.end - 4, "timer/footer"


def footer_mark(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.end - 5, b"\x7f"), s.end - 5, "timer/footer"


def footer_gone(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return data[: s.end - 5] + data[s.end :], s.end - 5, "timer/footer"


def version_too_new(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.header_end - 4, b"\0\0\0\x63"), s.header_end - 4, "timer/version"


def version_negative(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.header_end - 4, b"\xff\xff\xff\xff"), s.header_end - 4, "timer/version"


def section_id(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start + 4, b"\x63"), s.end - 4, "timer/footer"


def cut_short(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    # What is read as the footer are four bytes of it and one of what follows.
    return data[: s.payload_end - 4] + data[s.payload_end :], s.payload_end, "timer/footer"


def cut_at_the_front(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return data[: s.header_end] + data[s.header_end + 7 :], s.payload_end, "timer/footer"


def made_longer(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return data[: s.payload_end] + b"abc" + data[s.payload_end :], s.payload_end, "timer/footer"


def empty_name(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start + 5, b"\0"), s.start + 5, "section 0x0"


def short_name(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start + 5, b"\4"), s.start, "time"


def another_name(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start + 6, b"X"), s.start, "Ximer"


def another_instance(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.header_end - 5, b"\7"), s.start, "timer"


def unknown_type(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start, b"\x09"), s.start, ""


def part_of_nothing(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start, b"\2"), s.start + 1, "section 0x0"


def end_in_the_middle(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return put(data, s.start, b"\0"), s.start, ""


def twice(data: bytes, s: SectionNode) -> tuple[bytes, int, str]:
    return data[: s.end] + data[s.start : s.end] + data[s.end :], s.end, "timer"


DAMAGES = [
    footer_id, footer_mark, footer_gone, version_too_new, version_negative, section_id,
    cut_short, cut_at_the_front, made_longer, empty_name, short_name, another_name,
    another_instance, unknown_type, part_of_nothing, end_in_the_middle, twice,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", STREAMS)
def test_one_damage_is_one_problem_and_all_other_sections_are_parsed(
    name: str, damage: Damage
) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    damaged, offset, path = damage(data, timer_of(sound))
    document = parse(name, damaged)
    assert told(document) == [(offset, path)]
    assert others_of(document) == others_of(sound)
    assert (document.vmdesc is None) == (sound.vmdesc is None)


@pytest.mark.parametrize("length", [1, 6, 30, 100, 255])
@pytest.mark.parametrize("name", STREAMS)
def test_a_wrong_length_of_a_name_does_not_hide_what_follows(name: str, length: int) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    timer = timer_of(sound)
    document = parse(name, put(data, timer.start + 5, bytes([length])))
    assert document.problems
    assert all(timer.start <= (p.offset or 0) <= timer.end for p in document.problems)
    behind = [(s.idstr, s.start, s.end) for s in sound.sections if s.start >= timer.end]
    assert [(s.idstr, s.start, s.end) for s in document.sections[-len(behind) :]] == behind


JUNK = [
    b"\x99" * 7, b"\0\0\0", bytes(100), b"\x04junk", b"\x01" * 30, b"\x03" * 9, b"\x05abc",
    b"\x06\0\0\1\0", b"\x7e\0\0\0\0", b"\x08\0\5\0\x20abc", b"\x08\xff\xff\0\x10",
    b"\x04\0\0\0\x63\0", b"\x02\0\0\0\x63", b"QEVM\0\0\0\3",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk[:8].hex())
@pytest.mark.parametrize("name", STREAMS)
def test_junk_between_sections_is_one_opaque_leaf(name: str, junk: bytes) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    at = timer_of(sound).end
    document = parse(name, data[:at] + junk + data[at:])
    assert all(at <= (p.offset or 0) <= at + len(junk) for p in document.problems)
    assert 1 <= len(document.problems) <= 2
    assert [(s.path, s.size) for s in document.sections] == [
        (s.path, s.size) for s in sound.sections
    ]
    opaque = list(document.leaves(Role.OPAQUE))
    assert len(opaque) == 1
    assert at <= opaque[0].start < opaque[0].end <= at + len(junk)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_cut_off_says_so_once(name: str) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    assert sound.vmdesc is not None
    for end in range(timer_of(sound).start + 1, sound.vmdesc.start - 1, 37):
        document = parse(name, data[:end])
        assert len(document.problems) == 1, told(document)


@pytest.mark.parametrize("name", STREAMS)
def test_a_wrong_magic_and_version_do_not_stop_the_parse(name: str) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    document = parse(name, b"XXXX\0\0\0\x09" + data[8:])
    assert told(document) == [(0, "header"), (4, "header")]
    assert others_of(document) == others_of(sound)


@pytest.mark.parametrize("name", STREAMS)
def test_a_configuration_of_a_wrong_length_does_not_hide_the_sections(name: str) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    for length in (b"\0\0\0\3", b"\3\0\0\4"):
        document = parse(name, put(data, 9, length))
        assert document.problems
        assert all((problem.offset or 0) < 0x40 for problem in document.problems)
        assert others_of(document) == others_of(sound)


@pytest.mark.parametrize("name", STREAMS)
def test_a_damaged_eof_is_told_and_the_vmdesc_found(name: str) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    assert sound.vmdesc is not None
    at = sound.vmdesc.start - 1
    for byte in (1, 4, 9, 0x7E):
        document = parse(name, put(data, at, bytes([byte])))
        assert told(document) == [(at, "")]
        assert document.vmdesc is not None
        assert others_of(document) == others_of(sound)


@pytest.mark.parametrize("name", STREAMS)
def test_a_vmdesc_that_claims_too_much_is_told(name: str) -> None:
    data = stream_called(name)
    sound = parse(name, data)
    assert sound.vmdesc is not None
    document = parse(name, put(data, sound.vmdesc.start + 1, b"\x7f\xff\xff\xff"))
    assert told(document) == [(sound.vmdesc.start + 1, "vmdesc")]
    assert others_of(document) == others_of(sound)


# -- RAM -------------------------------------------------------------------------------------


def ram_sections(document: Document) -> list[SectionNode]:
    return [section for section in document.sections if section.idstr == "ram"]


def test_a_damaged_ram_item_makes_the_rest_of_its_section_opaque() -> None:
    data = full_stream()
    sound = parse("full by vmdesc", data)
    part = ram_sections(sound)[1]
    second = [node for node in part.children if node.start >= part.header_end][1]
    document = parse("full by vmdesc", put(data, second.start + 7, b"\x01"))
    assert [problem.offset for problem in document.problems] == [second.start]
    opaque = list(document.leaves(Role.OPAQUE))
    assert len(opaque) == 1
    assert opaque[0].end == part.payload_end
    assert [(s.path, s.start, s.end) for s in document.sections] == [
        (s.path, s.start, s.end) for s in sound.sections
    ]


def test_a_lost_byte_inside_a_page_does_not_hide_what_follows() -> None:
    data = full_stream()
    sound = parse("full by vmdesc", data)
    part = ram_sections(sound)[1]
    at = part.start + 100
    document = parse("full by vmdesc", data[:at] + data[at + 1 :])
    assert document.problems
    assert [(s.path, s.end) for s in document.sections if s.start > part.start] == [
        (s.path, s.end - 1) for s in sound.sections if s.start > part.start
    ]


def test_parts_of_a_ram_section_that_lost_its_start_are_found() -> None:
    data = full_stream()
    sound = parse("full by vmdesc", data)
    start = ram_sections(sound)[0]
    document = parse("full by vmdesc", data[: start.start] + data[start.end :])
    kinds = [section.type_label for section in document.sections]
    assert kinds == [s.type_label for s in sound.sections if s is not start]
    assert all("was not begun" in problem.reason for problem in document.problems)


def test_a_renumbered_start_section_is_told_and_its_parts_are_still_ram() -> None:
    data = full_stream()
    sound = parse("full by vmdesc", data)
    start = ram_sections(sound)[0]
    document = parse("full by vmdesc", put(data, start.start + 1, b"\0\0\0\x63"))
    assert document.problems
    assert list(document.leaves(Role.OPAQUE)) == []
    assert [s.path for s in document.sections] == [s.path for s in sound.sections]


def test_sections_follow_each_other_whatever_is_damaged() -> None:
    data = full_stream()
    for at in range(0, len(data), 97):
        document = parse("full by vmdesc", put(data, at, bytes([data[at] ^ 0x55])))
        for one, other in pairwise(document.sections):
            assert one.end <= other.start


def test_a_field_that_must_be_equal_shows_what_the_stream_has() -> None:
    tree = Document.parse(full_stream(), full_machine)
    damaged = tree.with_value(tree.find("cpu/cpuid_level"), 0x1234)
    found = Document.parse(damaged, full_machine)
    assert found.find("cpu/cpuid_level").value == 0x1234
    assert [problem.actual for problem in found.problems] == [0x1234]
