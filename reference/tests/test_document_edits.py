"""Edits change the bytes they name, and of the rest what consistency asks for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.board import full_machine, none_machine
from savevm.constants import SectionType
from savevm.document import Consistency, Dependent, Document, Edit, Node, Role, SectionNode
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

MODEST = settings(deadline=None, max_examples=60)
KEEP, REPAIR, BREAK = Consistency.KEEP, Consistency.REPAIR, Consistency.BREAK


def real() -> Document:
    return Document.parse(QEMU_NONE_STREAM)


def section(document: Document, idstr: str, kind: str = "FULL") -> SectionNode:
    return next(s for s in document.sections if (s.idstr, s.type_label) == (idstr, kind))


def changed(before: bytes, after: bytes) -> list[int]:
    assert len(before) == len(after)
    return [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]


# -- values ------------------------------------------------------------------------------------


def test_a_value_is_written_in_the_width_of_its_field() -> None:
    document = real()
    node = document.find("timer/cpu_clock_offset")
    edited = Document.parse(document.with_value(node, -2))
    assert edited.find("timer/cpu_clock_offset").value == -2
    assert edited.problems == []
    assert changed(QEMU_NONE_STREAM, edited.to_bytes()) == list(range(node.start, node.end))


def test_an_integer_is_cut_to_its_width() -> None:
    document = real()
    node = document.find("globalstate/size")
    edited = Document.parse(document.with_value(node, 0x1_0000_0007))
    assert edited.find("globalstate/size").value == 7


def test_every_integer_of_a_machine_takes_its_own_value_unchanged() -> None:
    machine = full_machine()
    machine.step(40)
    data = save_to_bytes(machine)
    document = Document.parse(data, full_machine)
    edited = 0
    for leaf in document.leaves():
        if leaf.value is None:
            continue
        assert document.with_value(leaf, leaf.value, KEEP) == data, leaf
        edited += 1
    assert edited > 300
    assert any(leaf.type_name == "bitmap" for leaf in document.leaves())


def test_an_element_of_an_array_can_be_given_a_value() -> None:
    document = Document.parse(save_to_bytes(full_machine()))
    array = next(leaf for leaf in document.leaves() if leaf.element_size > 1 and leaf.count > 2)
    edited = Document.parse(document.with_value(array.element(1), 0x5A))
    value = edited.find(array.path).value
    assert isinstance(value, list)
    assert isinstance(array.value, list)
    assert value == [array.value[0], 0x5A, *array.value[2:]]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("timer", 3),
        ("timer/cpu_ticks_offset", "text"),
        ("timer/cpu_ticks_offset", [1]),
        ("timer/cpu_ticks_offset", 1.5),
        ("timer/cpu_ticks_offset", None),
        ("timer/idstr", "x" * 256),
    ],
)
def test_a_leaf_refuses_what_it_cannot_hold(path: str, value: object) -> None:
    document = real()
    with pytest.raises(ValueError):
        document.with_value(document.find(path), value)  # type: ignore[arg-type]


def test_an_array_refuses_a_single_integer() -> None:
    document = Document.parse(save_to_bytes(full_machine()))
    array = next(leaf for leaf in document.leaves() if leaf.element_size)
    with pytest.raises(ValueError):
        document.with_value(array, 3)
    with pytest.raises(ValueError):
        document.with_value(array, ["x"])  # type: ignore[arg-type]


# -- counted strings ----------------------------------------------------------------------------


def test_a_repaired_name_has_its_length() -> None:
    document = real()
    edited = document.with_value(section(document, "timer").header(Role.IDSTR), "tim")
    assert b"\x04\0\0\0\0\x03tim\0\0\0\0" in edited
    assert [s.idstr for s in Document.parse(edited).sections][2] == "tim"


def test_a_kept_name_keeps_the_old_length() -> None:
    document = real()
    name = section(document, "timer").header(Role.IDSTR)
    edited = document.with_value(name, "timex", KEEP)
    assert changed(QEMU_NONE_STREAM, edited) == [name.end - 1]
    assert b"\x05tim\0" in document.with_value(name, "tim", KEEP)


def test_a_broken_name_has_a_wrong_length() -> None:
    document = real()
    name = section(document, "timer").header(Role.IDSTR)
    edited = document.with_value(name, "timer", BREAK, Dependent.STRING_LENGTH)
    assert changed(QEMU_NONE_STREAM, edited) == [name.start]
    assert edited[name.start] == 6


def test_text_inside_a_name_can_be_replaced_and_its_length_follows() -> None:
    document = real()
    name = section(document, "timer").header(Role.IDSTR)
    edit = Edit(name.start + 1, name.start + 3, b"")
    assert b"\x03mer\0\0\0\0" in document.edited([edit], REPAIR)
    assert b"\x05mer\0\0\0\0" in document.edited([edit], KEEP)
    assert b"\x04mer\0\0\0\0" in document.edited([edit], BREAK, Dependent.STRING_LENGTH)


# -- section ids -----------------------------------------------------------------------------------


def test_a_repaired_section_id_is_in_the_footer_too() -> None:
    document = real()
    edited = Document.parse(document.renumbered(section(document, "timer"), 0x63))
    assert edited.problems == []
    assert section(edited, "timer").section_id == 0x63


def test_a_kept_section_id_leaves_the_footer() -> None:
    document = real()
    edited = Document.parse(document.renumbered(section(document, "timer"), 0x63, KEEP))
    assert [problem.path for problem in edited.problems] == [("timer", "footer")]


def test_a_start_section_takes_its_parts_along() -> None:
    document = real()
    edited = Document.parse(document.renumbered(section(document, "ram", "START"), 0x63))
    assert edited.problems == []
    assert [s.section_id for s in edited.sections] == [0x63, 0x63, 0, 4]


@pytest.mark.parametrize(
    ("broken", "path"),
    [(Dependent.FOOTER, ("ram", "footer")), (Dependent.PARTS, ("section 0x64",))],
)
def test_one_dependent_can_be_broken_while_the_others_follow(
    broken: Dependent, path: tuple[str, ...]
) -> None:
    document = real()
    start = section(document, "ram", "START")
    edited = Document.parse(document.renumbered(start, 0x63, BREAK, broken))
    assert path in [problem.path for problem in edited.problems]


def test_breaking_needs_a_name() -> None:
    document = real()
    with pytest.raises(ValueError):
        document.with_value(document.find("timer/section id"), 1, BREAK)


# -- lengths ---------------------------------------------------------------------------------------


def test_the_size_of_the_vmdesc_follows_its_text() -> None:
    document = real()
    text = document.find("vmdesc/vmdesc")
    new = document.bytes_of(text)[:-1] + b' , "more": 1}'
    edited = Document.parse(document.with_bytes(text, new, REPAIR))
    assert edited.find("vmdesc/vmdesc size").value == len(new)
    assert list(edited.leaves(Role.TRAILER)) == []
    kept = Document.parse(document.with_bytes(text, new, KEEP))
    assert [leaf.size for leaf in kept.leaves(Role.TRAILER)] == [len(new) - text.size]
    broken = Document.parse(document.with_bytes(text, new, BREAK, Dependent.VMDESC_SIZE))
    assert [problem.path for problem in broken.problems] == [("vmdesc",)]


def test_the_length_of_the_machine_name_follows_it() -> None:
    document = real()
    name = document.find("configuration/name")
    edited = Document.parse(document.with_bytes(name, b"pc-i440fx-7.2", REPAIR))
    assert edited.problems == []
    assert edited.find("configuration/len").value == 13


def test_the_length_of_a_command_follows_its_payload() -> None:
    ping = b"\x08\0\2\0\4abcd"
    document = Document.parse(QEMU_NONE_STREAM[:0x79] + ping + QEMU_NONE_STREAM[0x79:])
    edited = document.with_bytes(document.find("PING/command data"), b"abc", REPAIR)
    assert b"\x08\0\2\0\3abc\x04" in edited


def test_a_dependent_that_is_edited_too_is_left_as_it_was_given() -> None:
    document = real()
    timer = section(document, "timer")
    assert timer.footer is not None
    edits = [
        Edit(timer.start + 1, timer.start + 5, b"\0\0\0\x63"),
        Edit(timer.footer.start + 1, timer.footer.end, b"\0\0\0\x77"),
    ]
    edited = Document.parse(document.edited(edits, REPAIR))
    assert [problem.actual for problem in edited.problems] == [0x77]


# -- sections -----------------------------------------------------------------------------------


def test_a_section_can_be_taken_out_put_twice_and_moved() -> None:
    document = real()
    timer = section(document, "timer")

    def names(data: bytes) -> list[str]:
        return [s.idstr for s in Document.parse(data).sections]

    assert names(document.without(timer)) == ["ram", "ram", "globalstate"]
    assert names(document.duplicated(timer)) == ["ram", "ram", "timer", "timer", "globalstate"]
    first = document.sections[0].start
    assert names(document.moved(timer, first)) == ["timer", "ram", "ram", "globalstate"]
    assert names(document.inserted(timer.start, document.bytes_of(timer)))[2:4] == ["timer"] * 2
    with pytest.raises(ValueError):
        document.moved(timer, timer.start + 3)


def test_a_retyped_section_takes_the_shape_of_its_new_type() -> None:
    document = real()
    timer = section(document, "timer")
    part = Document.parse(document.retyped(timer, SectionType.PART))
    assert [p.path for p in part.problems] == [("section 0x0",)]
    assert section(part, "section 0x0", "PART").size == timer.size - 14
    end = section(document, "ram", "END")
    start = Document.parse(document.retyped(end, SectionType.START))
    assert [s.type_label for s in start.sections] == ["START", "START", "FULL", "FULL"]
    assert start.sections[1].version_id == 1
    kept = document.retyped(timer, SectionType.START, KEEP)
    assert changed(QEMU_NONE_STREAM, kept) == [timer.start]


def test_overlapping_and_foreign_edits_are_refused() -> None:
    document = real()
    for edits in (
        [Edit(0, 4, b""), Edit(3, 5, b"")],
        [Edit(0, len(QEMU_NONE_STREAM) + 1, b"")],
        [Edit(5, 4, b"")],
    ):
        with pytest.raises(ValueError):
            document.edited(edits)


@MODEST
@given(st.data())
def test_kept_edits_change_what_they_name_and_nothing_else(data: st.DataObject) -> None:
    document = real()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(QEMU_NONE_STREAM)), min_size=2, max_size=8)))
    edits = [
        Edit(start, end, data.draw(st.binary(max_size=6)))
        for start, end in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    expected, position = b"", 0
    for edit in edits:
        expected += QEMU_NONE_STREAM[position : edit.start] + edit.data
        position = edit.end
    expected += QEMU_NONE_STREAM[position:]
    given_order = data.draw(st.permutations(edits))
    edited = document.edited(given_order, KEEP)
    assert edited == expected
    assert not fault_of(Document.parse(edited), edited)


@MODEST
@given(st.data())
def test_repaired_values_of_any_leaf_keep_every_section_whole(data: st.DataObject) -> None:
    document = real()
    editable = [leaf for leaf in document.leaves() if isinstance(leaf.value, (int, str))]
    leaf: Node = data.draw(st.sampled_from(editable))
    value = (
        data.draw(st.text("abcdef/", min_size=1, max_size=20))
        if isinstance(leaf.value, str)
        else data.draw(st.integers(0, 2**32))
    )
    edited = Document.parse(document.with_value(leaf, value))
    assert not fault_of(edited, edited.to_bytes())
    if leaf.role in (Role.SECTION_ID, Role.IDSTR):
        assert len(edited.sections) == 4


def test_an_edited_value_is_what_the_machine_gets() -> None:
    data = save_to_bytes(none_machine())
    document = Document.parse(data, none_machine)
    machine = none_machine()
    edited = document.with_value(document.find("timer/cpu_clock_offset"), 12345)
    load_from_bytes(machine, edited)
    assert Document.parse(save_to_bytes(machine)).find("timer/cpu_clock_offset").value == 12345
    with pytest.raises(LoadError):
        load_from_bytes(machine, document.renumbered(document.sections[0], 9, KEEP))
