"""The model behind inspect, and the JSON that scripts rely on."""

import json
from dataclasses import replace
from typing import Any

import pytest

from savevm.board import full_machine, small_machine
from savevm.document import Document
from savevm.document.inspection import as_json, describe
from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.state import State
from savevm.testing.documents import QEMU_NONE_STREAM
from savevm.vmstate import VMStateDescription, fields

PAGE = 4096


def test_a_real_stream_is_described() -> None:
    inspection = describe(Document.parse(QEMU_NONE_STREAM))
    assert (inspection.size, inspection.machine) == (747, "none")
    assert [(s.type, s.idstr, s.start, s.end) for s in inspection.sections] == [
        ("START", "ram", 0x11, 0x37),
        ("END", "ram", 0x37, 0x49),
        ("FULL", "timer", 0x49, 0x79),
        ("FULL", "globalstate", 0x79, 0xFF),
    ]
    assert [line.path for line in inspection.header][:2] == ["header/magic", "header/version"]
    assert [line.path for line in inspection.others] == ["eof"]
    assert inspection.vmdesc is not None
    assert (inspection.vmdesc.page_size, inspection.vmdesc.devices) == (4096, 2)
    assert inspection.problems == ()


def test_fields_have_path_span_type_and_value() -> None:
    timer = describe(Document.parse(QEMU_NONE_STREAM)).sections[2]
    assert [(f.path, f.start, f.end, f.type, f.value) for f in timer.fields] == [
        ("timer/cpu_ticks_offset", 0x5C, 0x64, "int64", 0),
        ("timer/unused", 0x64, 0x6C, "unused_buffer", bytes(8)),
        ("timer/cpu_clock_offset", 0x6C, 0x74, "int64", 0),
    ]


def test_the_json_has_the_shape_that_is_promised() -> None:
    machine = full_machine()
    machine.step(40)
    document = Document.parse(save_to_bytes(machine))
    shown: dict[str, Any] = json.loads(json.dumps(as_json(describe(document))))
    assert shown.keys() >= {"size", "sections", "problems"}
    assert shown["size"] == document.size
    for section, node in zip(shown["sections"], document.sections, strict=True):
        assert section.keys() >= {
            "type", "section_id", "idstr", "instance_id", "version_id", "start", "end", "fields",
        }  # fmt: skip
        assert (section["start"], section["end"]) == (node.start, node.end)
        for field in section["fields"]:
            assert field.keys() == {"path", "start", "end", "type", "value"}
            assert document.find(field["path"]).start == field["start"]


def test_problems_have_a_place_and_a_message() -> None:
    data = QEMU_NONE_STREAM[:0x78] + b"\x09" + QEMU_NONE_STREAM[0x79:]
    shown = as_json(describe(Document.parse(data)))
    assert shown["problems"] == [
        {
            "start": 0x75,
            "path": "timer/footer",
            "message": "expected section id 0x0, read 0x9",
        }
    ]


def test_pages_are_counted_by_kind_and_block() -> None:
    machine = small_machine(ram_bytes=64 * PAGE)
    assert machine.ram is not None
    for page in range(20, 40):
        machine.ram.blocks[0].write(page * PAGE, bytes([page]) * PAGE)
    inspection = describe(Document.parse(save_to_bytes(machine)))
    ram = {s.type: s.ram for s in inspection.sections if s.idstr == "ram"}
    start, part = ram["START"], ram["PART"]
    assert start is not None
    assert [(block.name, block.length) for block in start.blocks] == [("pc.ram", 64 * PAGE)]
    assert part is not None
    assert part.pages + part.zero_pages == 64
    assert part.pages >= 20
    assert [(b.name, b.pages, b.zero_pages) for b in part.blocks] == [
        ("pc.ram", part.pages, part.zero_pages)
    ]
    other = next(s for s in inspection.sections if s.idstr != "ram")
    assert other.ram is None


def test_opaque_bytes_are_counted() -> None:
    inspection = describe(Document.parse(QEMU_NONE_STREAM[:0x100]))
    assert [s.opaque_bytes for s in inspection.sections] == [0, 0, 24, 104]
    assert inspection.vmdesc is None


@pytest.mark.parametrize("text", [b"{}", b"no json", b'{"page_size": 3, "devices": []}'])
def test_a_vmdesc_that_is_none_is_said_to_be_none(text: bytes) -> None:
    data = QEMU_NONE_STREAM[:0x101] + len(text).to_bytes(4, "big") + text
    vmdesc = describe(Document.parse(data)).vmdesc
    assert vmdesc is not None
    assert (vmdesc.page_size, vmdesc.devices) == (None, 0)


def test_nothing_is_described_as_nothing() -> None:
    inspection = describe(Document.parse(b""))
    assert (inspection.size, inspection.sections, inspection.machine) == (0, (), None)
    assert [problem.start for problem in inspection.problems] == [0]


def test_the_json_can_be_written_whatever_a_field_is_called() -> None:
    # Text that UTF-8 has no bytes for, everywhere that a name can get to.
    vmsd = VMStateDescription("dev", fields=(fields.uint8("a", name="\ud800x"),))

    def refuses(state: State, version_id: int) -> int:
        raise LoadError("\udfff", path=("\ud801",))

    odd = VMStateDescription("odd", fields=(fields.uint8("a"),), post_load=refuses)

    def factory() -> Machine:
        machine = Machine("none")
        machine.savevm.vmstate_register(None, 0, vmsd, State(a=0))
        machine.savevm.vmstate_register(None, 0, odd, State(a=0))
        return machine

    data = save_to_bytes(factory())
    document = Document.parse(data, factory)
    assert len(document.problems) == 1
    inspection = replace(describe(document), machine="\ud802")
    text = json.dumps(as_json(inspection), ensure_ascii=False).encode("utf-8")
    shown = json.loads(text)
    assert shown["machine"] == "\\ud802"
    assert shown["sections"][0]["fields"][0]["path"] == "dev/\\ud800x"
    assert "\\ud801" in shown["problems"][0]["path"]
    assert shown["problems"][0]["message"] == "\\udfff"
