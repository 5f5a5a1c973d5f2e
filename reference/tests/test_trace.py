"""Trace events print as a line of QEMU's log backend does."""

import pytest

from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.testing import PlainDevice, plug
from savevm.trace import EVENTS, TraceEvent, TraceLog
from savevm.vmstate import VMStateDescription, fields, fieldtypes

SUB = VMStateDescription("dev/sub", fields=(fields.uint8("b"),), needed=lambda state: True)
DEV = VMStateDescription("dev", 3, 1, fields=(fields.uint32("a"),), subsections=(SUB,))
MANY = VMStateDescription("many", fields=(fields.pointer_array("a", fieldtypes.UINT8, 2),))


def machine() -> Machine:
    board = Machine("none")
    plug(board, DEV, PlainDevice(a=1, b=2))
    return board


def test_an_event_prints_like_qemus_log() -> None:
    event = TraceEvent("qemu_loadvm_state_section_startfull", (2, "ram", 0, 4))
    assert str(event) == "qemu_loadvm_state_section_startfull 2(ram) 0 4"


def test_an_event_without_arguments_prints_its_name() -> None:
    assert str(TraceEvent("savevm_state_header", ())) == "savevm_state_header"


def test_a_load_prints_what_qemu_prints_for_it() -> None:
    log = TraceLog()
    load_from_bytes(machine(), save_to_bytes(machine()), trace=log)
    assert [str(event) for event in log.events] == [
        "vmstate_load_state configuration v0",
        "vmstate_load_state_field configuration:len",
        "vmstate_load_state_field configuration:name",
        "vmstate_subsection_load configuration",
        "vmstate_subsection_load_good configuration",
        "vmstate_load_state_end configuration end/0",
        "qemu_loadvm_state_section 4",
        "qemu_loadvm_state_section_startfull 0(dev) 0 3",
        "vmstate_load dev, dev",
        "vmstate_load_state dev v3",
        "vmstate_load_state_field dev:a",
        "vmstate_subsection_load dev",
        "vmstate_load_state dev/sub v1",
        "vmstate_load_state_field dev/sub:b",
        "vmstate_subsection_load dev/sub",
        "vmstate_subsection_load_good dev/sub",
        "vmstate_load_state_end dev/sub end/0",
        "vmstate_subsection_load_good dev",
        "vmstate_load_state_end dev end/0",
        "qemu_loadvm_state_post_main 0",
    ]


def test_sections_can_be_traced_without_their_fields() -> None:
    log = TraceLog()
    board = machine()
    plug(board, MANY, PlainDevice(a=[1, 2]))
    load_from_bytes(board, save_to_bytes(board), trace=log, trace_fields=False)
    names = {event.name for event in log.events}
    assert "vmstate_load_state" in names
    assert "vmstate_n_elems" not in names
    assert not names & {"vmstate_load_state_field", "vmstate_subsection_load"}


def test_a_save_is_traced_with_the_seeds_events() -> None:
    log = TraceLog()
    save_to_bytes(machine(), trace=log)
    assert [str(event) for event in log.events] == [
        "savevm_state_header",
        "savevm_state_begin",
        "savevm_state_iterate",
        "savevm_state_complete",
        "savevm_section_start dev, section_id 0",
        "vmstate_save dev, dev",
        "savevm_section_end dev, section_id 0 -> 0",
    ]


def test_named_picks_one_kind_of_event() -> None:
    log = TraceLog()
    log("vmstate_load", "a", "b")
    log("savevm_state_header")
    assert log.named("vmstate_load") == [("a", "b")]


def test_a_log_keeps_to_its_bound_and_counts_the_rest() -> None:
    log = TraceLog(limit=2)
    for number in range(5):
        log("qemu_loadvm_state_section", number)
    assert log.named("qemu_loadvm_state_section") == [(0,), (1,)]
    assert log.dropped == 3


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_has_a_format_that_takes_arguments(name: str) -> None:
    text = EVENTS[name]
    arguments = tuple("x" if text[at + 1] == "s" else 7 for at in _places(text))
    assert str(TraceEvent(name, arguments)).startswith(name)


def _places(text: str) -> list[int]:
    return [at for at in range(len(text)) if text[at] == "%"]
