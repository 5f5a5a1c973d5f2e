"""What is drawn for property tests is what it says it is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.board import FULL, full_machine, machine_with
from savevm.document import Document
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.testing.strategies import (
    EditedDocument,
    descriptions,
    edited_documents,
    machines,
    states,
    streams,
)
from savevm.vmstate import vmstate_load_state, vmstate_save_state


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_drawn_state_saves_and_loads_by_its_description(data: st.DataObject) -> None:
    drawn = data.draw(descriptions())
    state = data.draw(states(drawn))
    sink = BytesSink()
    writer = QEMUFileWriter(sink)
    vmstate_save_state(writer, drawn.vmsd, state, None)
    writer.flush()
    vmstate_load_state(QEMUFileReader(bytes(sink.data)), drawn.vmsd, drawn.blank(), 2)


@given(machines())
@settings(max_examples=20, deadline=None)
def test_a_drawn_machine_is_possible(machine: Machine) -> None:
    assert machine.check_invariants() == []


@given(streams(["cpu", "nic", "kinds"]))
@settings(max_examples=20, deadline=None)
def test_a_drawn_stream_loads(stream: bytes) -> None:
    load_from_bytes(full_machine(), stream)


@given(edited_documents())
@settings(max_examples=40, deadline=None)
def test_edits_are_recorded_as_they_were_made(edited: EditedDocument) -> None:
    assert len(edited.child) == len(edited.parent)
    before = Document.parse(edited.parent, lambda: machine_with(*FULL))
    expected = bytearray(edited.parent)
    assert len({edit.path for edit in edited.edits}) == len(edited.edits)
    for edit in edited.edits:
        leaf = before.find(edit.path)
        assert int.from_bytes(before.bytes_of(leaf), "big") == edit.old
        expected[leaf.start : leaf.end] = edit.new.to_bytes(leaf.size, "big")
    assert edited.child == bytes(expected)


@given(edited_documents(["small", "disk", "storage"]))
@settings(max_examples=40, deadline=None)
def test_an_edited_stream_loads_or_is_refused_and_leaves_nothing_behind(
    edited: EditedDocument,
) -> None:
    machine = full_machine()
    before = machine.digest()
    try:
        load_from_bytes(machine, edited.child)
    except LoadError:
        assert machine.digest() == before
