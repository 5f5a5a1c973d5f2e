"""Corners of going on: bounds, footers that come back, machines with bugs, far seeks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from savevm.board import small_machine
from savevm.document import (
    Consistency,
    Dependent,
    Document,
    Edit,
    NodeKind,
    RamRunNode,
    Role,
)  # fmt: skip
from savevm.document.gaps import cut
from savevm.document.nodes import Node
from savevm.document.recorder import PROBLEMS_MAX
from savevm.document.resync import LOOKBACK_MAX, RESYNCS_MAX, Footing, Searcher
from savevm.document.section_loader import COMMANDS_MAX, HANDLERS_MAX, NAME_SHOWN, REASON_SHOWN
from savevm.document.store import MemoryStore
from savevm.foreign import foreign_machine
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.state import State
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of
from savevm.vmstate import VMStateDescription, fields

HEADER = b"QEVM\0\0\0\3"


def section(number: int, name: bytes, payload: bytes) -> bytes:
    return (
        b"\x04" + number.to_bytes(4, "big") + bytes([len(name)]) + name + bytes(4) + b"\0\0\0\1"
        + payload + b"\x7e" + number.to_bytes(4, "big")
    )  # fmt: skip


# -- footers -------------------------------------------------------------------------------------


def test_a_lost_footer_of_the_first_section_is_told_once_another_has_one() -> None:
    data = QEMU_NONE_STREAM[:0x32] + QEMU_NONE_STREAM[0x37:]
    document = Document.parse(data)
    assert [(p.offset, p.path) for p in document.problems] == [(0x32, ("ram", "footer"))]
    assert [s.footer is None for s in document.sections] == [True, False, False, False]
    assert not fault_of(document, data)


def test_a_damaged_first_footer_is_told() -> None:
    data = QEMU_NONE_STREAM[:0x32] + b"\x7f" + QEMU_NONE_STREAM[0x33:]
    document = Document.parse(data)
    assert [(p.offset, p.path) for p in document.problems] == [(0x32, ("ram", "footer"))]
    assert document.sections[0].end == 0x37


def test_what_looks_like_a_footer_inside_an_unknown_device_does_not_end_it() -> None:
    payload = b"ab\x7e\0\0\0\1cd"
    data = HEADER + section(1, b"dev", payload) + section(2, b"dev", b"x") + b"\0"
    document = Document.parse(data)
    assert document.problems == []
    assert [document.bytes_of(s.fields[0]) for s in document.sections] == [payload, b"x"]


# -- machines ------------------------------------------------------------------------------------


def machine_that_raises(error: Exception) -> Machine:
    def post_load(state: State, version_id: int) -> int:
        raise error

    vmsd = VMStateDescription("dev", fields=(fields.uint8("a"),), post_load=post_load)
    machine = Machine("none")
    machine.savevm.vmstate_register(None, 0, vmsd, State(a=0))
    return machine


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), IndexError("out"), KeyError("k")])
def test_a_machine_with_bugs_does_not_stop_the_parse(error: Exception) -> None:
    data = HEADER + section(1, b"dev", b"\7") + section(2, b"dev", b"\7") + b"\0"
    document = Document.parse(data, lambda: machine_that_raises(error))
    assert not fault_of(document, data)
    assert [s.idstr for s in document.sections] == ["dev", "dev"]
    assert type(error).__name__ in document.problems[0].reason


def test_a_version_that_is_not_readable_leaves_an_opaque_payload() -> None:
    def factory() -> Machine:
        machine = Machine("none")
        vmsd = VMStateDescription("dev", 9, 5, fields=(fields.uint8("a"),))
        machine.savevm.vmstate_register(None, 0, vmsd, State(a=0))
        return machine

    data = HEADER + section(1, b"dev", b"\7") + b"\0"
    document = Document.parse(data, factory)
    assert len(document.problems) == 1
    assert [leaf.role for leaf in document.sections[0].fields] == [Role.OPAQUE]


# -- bounds --------------------------------------------------------------------------------------


def test_sections_beyond_the_bound_are_opaque() -> None:
    count = HANDLERS_MAX + 50
    data = HEADER + b"".join(section(number, b"dev", b"") for number in range(count)) + b"\0"
    document = Document.parse(data)
    assert len(document.sections) == HANDLERS_MAX
    assert document.problems
    assert not fault_of(document, data)


@pytest.mark.parametrize("between", [b"", section(1, b"dev", b"x")])
def test_commands_beyond_the_bound_are_opaque_and_said_once(between: bytes) -> None:
    ping = b"\x08\0\1\0\0"  # OPEN_RETURN_PATH, of no bytes
    piece = HEADER + ping * COMMANDS_MAX
    data = piece + ping * 1000 + between + ping * 1000 + section(2, b"end", b"y") + b"\0"
    document = Document.parse(data)
    commands = [node for node in document.root.children if node.kind is NodeKind.COMMAND]
    assert len(commands) == COMMANDS_MAX
    assert [p.offset for p in document.problems] == [len(piece)]
    assert [s.idstr for s in document.sections] == (["dev"] if between else []) + ["end"]
    assert len(document.root.children) < COMMANDS_MAX + 10
    assert not fault_of(document, data)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_command_beyond_the_bound_may_be_cut_off(cut: int) -> None:
    data = HEADER + b"\x08\0\1\0\0" * COMMANDS_MAX + (b"\x08\0\1\0\0\x08\0\2\0\4abcd")[:cut]
    document = Document.parse(data)
    assert [p.offset for p in document.problems] == [len(data) - cut, len(data)]
    assert not fault_of(document, data)


def test_as_many_commands_as_are_allowed_are_no_problem() -> None:
    data = HEADER + b"\x08\0\1\0\0" * COMMANDS_MAX + section(2, b"end", b"y") + b"\0"
    assert Document.parse(data).problems == []


NOTES = {
    "the stream goes on behind its end": b"\0" + section(1, b"x", b"\7") + b"\0",
    f"more than {COMMANDS_MAX} commands": b"\x08\0\1\0\0" * (COMMANDS_MAX + 1) + b"\0",
}


@pytest.mark.parametrize("reason", NOTES)
def test_what_a_strict_loader_takes_all_the_same_is_noted(reason: str) -> None:
    # What is called a note where a Document's problems are described.
    data = QEMU_NONE_STREAM[:0xFF] + NOTES[reason]
    load_from_bytes(foreign_machine(QEMU_NONE_STREAM), data)
    assert [problem.reason for problem in Document.parse(data).problems] == [reason]


def test_searches_beyond_the_bound_look_at_nothing() -> None:
    class Counting(MemoryStore):
        looks = 0

        def finditer(self, pattern: "re.Pattern[bytes]", start: int, end: int) -> Iterator[int]:
            self.looks += 1
            return super().finditer(pattern, start, end)

    store = Counting(b"\x7e\0\0\0\1")
    searcher = Searcher(store)
    for _ in range(RESYNCS_MAX - 1):
        searcher.next_section(0)
    assert searcher.end_of_section(1, 0) == (0, Footing.OWN)
    assert store.looks == RESYNCS_MAX
    assert searcher.budget > 0
    assert searcher.next_section(0) == store.size
    assert searcher.end_of_section(1, 0) == (store.size, Footing.NONE)
    assert store.looks == RESYNCS_MAX


def test_problems_beyond_the_bound_are_counted() -> None:
    count = HANDLERS_MAX - 10
    sections = b"".join(section(5, b"dev", b"")[:-1] + b"\x09" for _ in range(count))
    document = Document.parse(HEADER + sections + b"\0")
    assert len(document.problems) == PROBLEMS_MAX
    assert document.problems_dropped >= count - PROBLEMS_MAX


def test_names_in_problems_are_short() -> None:
    data = HEADER + section(1, b"x" * 255, b"") + b"\0"
    document = Document.parse(data, small_machine)
    assert document.problems
    for problem in document.problems:
        assert all(len(name) <= NAME_SHOWN + 1 for name in problem.path)
        assert len(problem.reason) <= REASON_SHOWN + 1


def test_a_section_that_ends_far_behind_its_error_is_found_in_a_file(tmp_path: Path) -> None:
    # Behind the window of the file, and read again from far before.
    payload = bytes(LOOKBACK_MAX // 2)
    data = HEADER + section(1, b"dev", payload) + section(2, b"dev", b"x") + b"\0"
    path = tmp_path / "stream"
    path.write_bytes(data)
    document = Document.parse_file(path)
    assert [(s.idstr, s.size) for s in document.sections] == [
        ("dev", len(payload) + 22), ("dev", 23),
    ]  # fmt: skip
    assert document.problems == []
    assert not fault_of(document, data)


# -- what a cut leaves ---------------------------------------------------------------------------


def test_a_run_that_is_cut_keeps_its_whole_items() -> None:
    run = RamRunNode(100, 100 + 10 * 9, 0x22, "pc.ram", 0x3000, 10, 0x1000)
    assert run.name == "pc.ram/zero 0x3000-0xc000"
    nodes: list[Node] = [run]
    cut(nodes, 100 + 4 * 9 + 5)
    assert nodes == [run]
    assert (run.items, run.end, run.name) == (4, 136, "pc.ram/zero 0x3000-0x6000")
    cut(nodes, 100 + 13)
    assert (run.items, run.name) == (1, "pc.ram/zero 0x3000")
    cut(nodes, 100 + 3)
    assert nodes == []


def test_half_a_value_is_gone_and_structures_end_where_they_are_cut() -> None:
    outer = Node(NodeKind.FIELD, "s", 0, 12)
    outer.children = [
        Node(NodeKind.FIELD, "a", 0, 4, Role.FIELD), Node(NodeKind.FIELD, "b", 4, 12, Role.FIELD),
    ]  # fmt: skip
    nodes = [outer]
    cut(nodes, 7)
    assert nodes == [outer]
    assert outer.end == 7
    assert [node.name for node in outer.children] == ["a"]


# -- odds and ends -------------------------------------------------------------------------------


def test_nodes_say_what_they_are() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    leaf = document.find("timer/cpu_clock_offset")
    assert "timer/cpu_clock_offset" in repr(leaf)
    assert (leaf.is_leaf, document.sections[0].is_leaf) == (True, False)
    assert document.section_at(leaf.start) is document.sections[2]
    assert document.section_at(0) is None
    assert document.read(0, 4) == b"QEVM"
    with pytest.raises(KeyError):
        document.sections[1].header(Role.IDSTR)
    assert document.sections[0].type_label == "START"


def test_edits_of_what_has_no_dependents_are_left_alone() -> None:
    document = Document.parse(save_to_bytes(small_machine()))
    section_node = document.sections[-1]
    name = section_node.header(Role.IDSTR)
    whole = document.with_bytes(name, b"\x03abc", Consistency.BREAK, Dependent.FOOTER)
    assert b"\x03abc" in whole
    longest = document.edited([Edit(name.start + 1, name.end, b"n" * 300)], Consistency.REPAIR)
    assert longest[name.start] == name.size - 1
    assert document.retyped(section_node, section_node.type) == document.to_bytes()
