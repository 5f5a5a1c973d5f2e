"""Machines built from a stream's own description."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.board import full_machine, none_machine, small_machine
from savevm.constants import MAX_ELEMENTS, MAX_VMSTATE_DEPTH
from savevm.document import Document, Role
from savevm.errors import LoadError
from savevm.foreign import foreign_machine, parse_vmdesc
from savevm.foreign.states import ForeignState
from savevm.foreign.text import EMPTY_MAX, ENTRIES_MAX, STATES_MAX
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

MODEST = settings(deadline=None, max_examples=150)
CAPTURE_SECONDS = 120
BUILDERS = {"none": none_machine, "small": small_machine, "full": full_machine}


def round_trip(data: bytes) -> bytes:
    machine = foreign_machine(data)
    load_from_bytes(machine, data)
    return save_to_bytes(machine)


def state_of(machine: Machine, idstr: str) -> Any:
    return next(se.opaque for se in machine.savevm.handlers if se.idstr == idstr)


# -- streams that are as they should be -------------------------------------------------------


def test_a_real_stream_is_loaded_and_saved_again_bit_for_bit() -> None:
    machine = foreign_machine(QEMU_NONE_STREAM)
    load_from_bytes(machine, QEMU_NONE_STREAM)
    assert machine.machine_type == "none"
    globalstate = state_of(machine, "globalstate")
    assert isinstance(globalstate, ForeignState)
    assert vars(globalstate)["runstate"] == b"prelaunch".ljust(100, b"\0")
    assert save_to_bytes(machine) == QEMU_NONE_STREAM


@pytest.mark.parametrize("steps", [0, 7, 60])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_stream_of_the_reference_is_saved_again_bit_for_bit(name: str, steps: int) -> None:
    machine = BUILDERS[name]()
    machine.step(steps)
    data = save_to_bytes(machine)
    assert round_trip(data) == data


def test_a_second_load_replaces_the_first() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    first = QEMU_NONE_STREAM
    second = document.with_value(document.find("timer/cpu_clock_offset"), 77)
    machine = foreign_machine(first)
    for data in (first, second, first):
        load_from_bytes(machine, data)
        assert save_to_bytes(machine) == data


def test_an_edited_value_is_loaded_and_saved() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    edited = document.with_value(document.find("timer/cpu_clock_offset"), 77)
    assert round_trip(edited) == edited


def test_bytes_that_no_device_would_write_are_kept() -> None:
    # Padding that is not zero, and a bool that is neither 0 nor 1.
    document = Document.parse(QEMU_NONE_STREAM)
    edited = document.with_bytes(document.find("timer/unused"), b"\7" * 8)
    assert round_trip(edited) == edited


def test_a_machine_type_without_footers_is_taken_over() -> None:
    old = small_machine()
    old.skip_section_footers = True
    data = save_to_bytes(old)
    assert round_trip(data) == data


def test_a_stream_without_a_configuration_is_saved_without_one() -> None:
    old = small_machine()
    old.send_configuration = False
    data = save_to_bytes(old)
    assert round_trip(data) == data


def test_a_failed_load_leaves_the_machine_as_it_was() -> None:
    data = save_to_bytes(full_machine())
    machine = foreign_machine(data)
    load_from_bytes(machine, data)
    document = Document.parse(data)
    last = document.sections[-1]
    with pytest.raises(LoadError):
        load_from_bytes(machine, document.renumbered(document.sections[0], 0x99)[: last.end])
    assert save_to_bytes(machine) == data


def test_the_digest_of_the_machine_covers_its_devices() -> None:
    value = Document.parse(QEMU_NONE_STREAM).find("timer/cpu_clock_offset")
    edited = Document.parse(QEMU_NONE_STREAM).with_value(value, 77)
    digests = []
    for data in (QEMU_NONE_STREAM, QEMU_NONE_STREAM, edited):
        machine = foreign_machine(data)
        fresh = machine.digest()
        load_from_bytes(machine, data)
        assert machine.digest() != fresh
        digests.append(machine.digest())
    assert digests[0] == digests[1] != digests[2]


# -- descriptions made up for a purpose ----------------------------------------------------------


def section(number: int, name: str, payload: bytes, version: int = 1, instance: int = 0) -> bytes:
    return (
        b"\x04" + number.to_bytes(4, "big") + bytes([len(name)]) + name.encode()
        + instance.to_bytes(4, "big") + version.to_bytes(4, "big") + payload
        + b"\x7e" + number.to_bytes(4, "big")
    )  # fmt: skip


RAM = QEMU_NONE_STREAM[0x11:0x49]


def stream(sections: bytes, devices: list[dict[str, Any]]) -> bytes:
    text = json.dumps({"page_size": 4096, "devices": devices}).encode()
    return (
        QEMU_NONE_STREAM[:0x11] + RAM + sections + b"\0\x06" + len(text).to_bytes(4, "big") + text
    )


def device(name: str, fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    head = {"name": name, "instance_id": 0, "vmsd_name": name, "version": 1}
    return {**head, "fields": fields, **more}


def field(name: str, kind: str, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, **more, "type": kind, "size": size}


def test_devices_of_one_name_and_of_the_old_style_are_all_in_the_digest() -> None:
    described = device("isa-ide", [field("a", "uint8", 1)])
    old = {"name": "old", "instance_id": 3, "size": 2, "fields": []}
    digests = set()
    for values in (b"\1\2\3\4", b"\7\2\3\4", b"\1\7\3\4", b"\1\2\7\4", b"\1\2\3\7"):
        sections = section(5, "isa-ide", values[:1]) + section(6, "isa-ide", values[1:2])
        data = stream(
            sections + section(7, "old", values[2:], instance=3), [described, described, old]
        )
        machine = foreign_machine(data)
        load_from_bytes(machine, data)
        assert machine.check_invariants() == []
        digests.add(machine.digest())
    assert len(digests) == 5


def test_two_devices_of_one_name_and_instance_are_told_apart_by_their_order() -> None:
    described = device("isa-ide", [field("a", "uint8", 1)])
    data = stream(section(20, "isa-ide", b"\1") + section(21, "isa-ide", b"\2"), [described] * 2)
    machine = foreign_machine(data)
    for _ in range(2):
        load_from_bytes(machine, data)
        values = [se.opaque.a for se in machine.savevm.handlers if se.idstr == "isa-ide"]
        assert values == [1, 2]
        assert save_to_bytes(machine) == data
    assert [s.path for s in Document.parse(data).sections][2:] == ["isa-ide", "isa-ide~1"]


def test_one_more_section_than_devices_is_a_device_that_comes_twice() -> None:
    described = device("isa-ide", [field("a", "uint8", 1)])
    sections = b"".join(section(20 + n, "isa-ide", b"\1") for n in range(3))
    data = stream(sections, [described] * 2)
    with pytest.raises(LoadError, match="comes twice"):
        load_from_bytes(foreign_machine(data), data)


def test_a_failed_load_does_not_mix_up_devices_of_one_name() -> None:
    described = device("isa-ide", [field("a", "uint8", 1)])
    data = stream(section(20, "isa-ide", b"\1") + section(21, "isa-ide", b"\2"), [described] * 2)
    machine = foreign_machine(data)
    with pytest.raises(LoadError):
        load_from_bytes(machine, data[: data.index(b"\x04\0\0\0\x15") + 3])
    load_from_bytes(machine, data)
    assert save_to_bytes(machine) == data


def test_an_old_style_device_is_so_many_bytes_of_the_version_it_came_in() -> None:
    old = {
        "name": "old", "instance_id": 3, "size": 5,
        "fields": [{"name": "data", "size": 5, "type": "buffer"}],
    }  # fmt: skip
    data = stream(section(9, "old", b"hello", version=7, instance=3), [old])
    assert round_trip(data) == data
    node = Document.parse(data).sections[-1]
    assert [(leaf.role, leaf.value) for leaf in node.fields] == [(Role.DATA, b"hello")]
    assert Document.parse(data).problems == []


def test_a_version_of_zero_is_a_version() -> None:
    described = device("vmmouse", [field("a", "uint16", 2)], version=0)
    data = stream(section(5, "vmmouse", b"\1\2", version=0), [described])
    assert round_trip(data) == data


TYPES = [
    ("uint8", b"\xfe", 0xFE), ("int8", b"\xfe", -2), ("uint16", b"\xff\xfe", 0xFFFE),
    ("int16", b"\xff\xfe", -2), ("uint32", b"\xff\xff\xff\xfe", 0xFFFF_FFFE),
    ("int32", b"\xff\xff\xff\xfe", -2), ("int32 equal", b"\xff\xff\xff\xfe", -2),
    ("int32 le", b"\0\0\0\7", 7), ("uint64", b"\1" + bytes(7), 1 << 56),
    ("int64", b"\xff" * 8, -1), ("timer", b"\xff" * 8, (1 << 64) - 1), ("bool", b"\1", True),
    ("bool", b"\7", 7), ("uint8", b"xy", b"xy"), ("pci config", bytes(range(64)), bytes(range(64))),
    ("virtio", b"\x05\3foo", b"\x05\3foo"), ("something new", b"\0\1\2", b"\0\1\2"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "wire", "value"), TYPES)
def test_types_are_known_by_name_and_size(kind: str, wire: bytes, value: object) -> None:
    data = stream(section(5, "dev", wire), [device("dev", [field("a", kind, len(wire))])])
    assert round_trip(data) == data
    document = Document.parse(data)
    assert document.problems == []
    leaf = document.find("dev/a")
    assert (leaf.value, leaf.type_name) == (value, kind)
    machine = foreign_machine(data)
    load_from_bytes(machine, data)
    assert state_of(machine, "dev").a == value


def test_structs_arrays_subsections_and_temporaries_are_synthesised() -> None:
    inner = {"vmsd_name": "in", "version": 2, "fields": [field("x", "uint16", 2)]}
    sub = {"vmsd_name": "dev/more", "version": 3, "fields": [field("a", "uint8", 1)]}
    fields = [
        field("a", "uint8", 1),
        field("words", "uint16", 2, array_len=3),
        {"name": "one", "type": "struct", "struct": inner, "size": 2},
        {"name": "many", "array_len": 2, "type": "struct", "struct": inner, "size": 2},
        {"name": "tmp", "type": "tmp", **inner, "size": 2},
        {"name": "fixed", "type": "vstruct", **inner, "size": 2},
        field("__class__", "uint8", 1),
        field("vmsd", "uint8", 1),
        field("", "uint8", 1),
    ]
    payload = (
        b"\1" + b"\0\1\0\2\0\3" + b"\0\4" + b"\0\5\0\6" + b"\0\7" + b"\0\x08" + b"\x09\x0a\x0b"
        + b"\x05\x08dev/more\0\0\0\3\x0c"
    )  # fmt: skip
    data = stream(section(5, "dev", payload), [device("dev", fields, subsections=[sub])])
    assert round_trip(data) == data
    document = Document.parse(data)
    assert document.problems == []
    values = {
        "dev/a": 1, "dev/words": [1, 2, 3], "dev/words[1]": 2, "dev/one/x": 4, "dev/many[1]/x": 6,
        "dev/tmp/x": 7, "dev/fixed/x": 8, "dev/__class__": 9, "dev/vmsd": 10, "dev/more/a": 12,
    }  # fmt: skip
    assert {path: document.find(path).value for path in values} == values


def test_a_subsection_that_is_gone_stays_gone() -> None:
    sub = {"vmsd_name": "dev/more", "version": 3, "fields": [field("a", "uint8", 1)]}
    described = device("dev", [field("a", "uint8", 1)], subsections=[sub])
    data = stream(section(5, "dev", b"\1\x05\x08dev/more\0\0\0\3\x0c"), [described])
    machine = foreign_machine(data)
    document = Document.parse(data)
    without = document.without(document.find("dev/more"))
    load_from_bytes(machine, without)
    saved = save_to_bytes(machine)
    assert b"\x05\x08dev/more" not in saved
    load_from_bytes(machine, data)
    assert save_to_bytes(machine) == data


def test_elements_that_are_listed_one_by_one_may_differ() -> None:
    short = {"vmsd_name": "in", "version": 1, "fields": [field("x", "uint8", 1)]}
    sub = {"vmsd_name": "in/more", "version": 1, "fields": [field("y", "uint8", 1)]}
    long = {**short, "subsections": [sub]}
    fields = [
        {"name": "ports", "index": 0, "type": "struct", "struct": short, "size": 1},
        {"name": "ports", "index": 1, "type": "nullptr", "size": 1},
        {"name": "ports", "index": 2, "type": "struct", "struct": long, "size": 15},
        {"name": "ports", "index": 3, "type": "struct", "struct": short, "size": 2},
        field("words", "uint16", 2, index=0),
        field("words", "uint16", 2, index=1),
    ]
    payload = b"\1" + b"0" + b"\2\x05\x07in/more\0\0\0\1\3" + b"1\4" + b"\0\5\0\6"
    data = stream(section(5, "dev", payload), [device("dev", fields)])
    assert round_trip(data) == data
    document = Document.parse(data)
    assert document.problems == []
    assert document.find("dev/ports[2]/more/y").value == 3
    assert document.find("dev/ports[3]/x").value == 4
    assert document.find("dev/words").value == [5, 6]


def test_a_struct_whose_size_its_fields_do_not_explain_is_bytes() -> None:
    # A list's markers are in its size and not among its fields.
    inner = {"vmsd_name": "el", "version": 1, "fields": [field("x", "uint8", 1)]}
    fields = [{"name": "list", "type": "qtailq", **inner, "size": 5}]
    data = stream(section(5, "dev", b"\1\7\1\x08\0"), [device("dev", fields)])
    assert round_trip(data) == data
    assert Document.parse(data).find("dev/list").value == b"\1\7\1\x08\0"


# -- descriptions that are lies ------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    inner = {"vmsd_name": "v", "version": 1, "fields": [field("x", "uint8", 1)]}
    for _ in range(depth):
        inner = {
            "vmsd_name": "v", "version": 1,
            "fields": [{"name": "s", "type": "struct", "struct": inner, "size": 1}],
        }  # fmt: skip
    return inner


EMPTY = {"vmsd_name": "v", "version": 1, "fields": []}
LIES: dict[str, Any] = {
    "no object": [1],
    "no devices": {"page_size": 4096},
    "devices no list": {"page_size": 4096, "devices": {}},
    "page size": {"page_size": 4097, "devices": []},
    "huge page": {"page_size": 1 << 40, "devices": []},
    "device no object": {"page_size": 4096, "devices": [3]},
    "no name": {"page_size": 4096, "devices": [device("", [])]},
    "long name": {"page_size": 4096, "devices": [device("x" * 256, [])]},
    "name not ASCII": {"page_size": 4096, "devices": [device("\u20ac", [])]},
    "a surrogate in a field": {
        "page_size": 4096, "devices": [device("d", [field("\ud800x", "uint8", 1)])],
    },
    "a surrogate in a type": {
        "page_size": 4096, "devices": [device("d", [field("a", "\udfff", 1)])],
    },
    "a long field": {"page_size": 4096, "devices": [device("d", [field("x" * 256, "uint8", 1)])]},
    "a long type": {"page_size": 4096, "devices": [device("d", [field("a", "x" * 256, 1)])]},
    "a field without a type": {"page_size": 4096, "devices": [device("d", [{"name": "a"}])]},
    "negative size": {"page_size": 4096, "devices": [device("d", [field("a", "uint8", -1)])]},
    "size a bool": {"page_size": 4096, "devices": [device("d", [field("a", "uint8", True)])]},
    "more than the stream": {
        "page_size": 4096, "devices": [device("d", [field("a", "buffer", 1 << 30)])],
    },
    "an array past the stream": {
        "page_size": 4096,
        "devices": [device("d", [field("a", "uint8", 1, array_len=MAX_ELEMENTS)])],
    },
    "an array of nothing": {
        "page_size": 4096,
        "devices": [device("d", [field("a", "buffer", 0, array_len=1 << 40)])],
    },
    "nothing a million times": {
        "page_size": 4096,
        "devices": [device("d", [field("a", "x", 0, array_len=MAX_ELEMENTS)])],
    },
    "little by little nothing": {
        "page_size": 4096,
        "devices": [device("d", [field("a", "x", 0, array_len=64)] * 5)],
    },
    "nothing in each of many": {
        "page_size": 4096,
        "devices": [
            device(
                "d",
                [{"name": "s", "type": "struct", "size": 1, "array_len": EMPTY_MAX // 8,
                  "struct": {"vmsd_name": "v", "version": 1,
                             "fields": [field("a", "uint8", 1)] + [field("b", "x", 0)] * 9}}],
            )
        ],
    },
    "empty structs without end": {
        "page_size": 4096,
        "devices": [
            device(
                "d",
                [{"name": "s", "type": "struct", "struct": EMPTY, "size": 0,
                  "array_len": STATES_MAX}],
            )
        ],
    },
    "too deep": {"page_size": 4096, "devices": [{**device("d", []), **nested(MAX_VMSTATE_DEPTH)}]},
    "version text": {"page_size": 4096, "devices": [device("d", [], version="1")]},
    "version negative": {"page_size": 4096, "devices": [device("d", [], version=-1)]},
    "instance": {"page_size": 4096, "devices": [device("d", [], instance_id=1 << 33)]},
    "fields no list": {"page_size": 4096, "devices": [device("d", 7)]},  # type: ignore[arg-type]
    "too many devices": {"page_size": 4096, "devices": [device("d", [])] * 2000},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_description_that_cannot_be_true_builds_no_machine(lie: object) -> None:
    text = json.dumps(lie).encode()
    data = QEMU_NONE_STREAM[:0x101] + len(text).to_bytes(4, "big") + text
    with pytest.raises(LoadError) as caught:
        foreign_machine(data)
    assert caught.value.path == ("vmdesc",)
    document = Document.parse(data)
    assert not fault_of(document, data)
    # Without a layout the footers are there still.
    assert [s.idstr for s in document.sections] == ["ram", "ram", "timer", "globalstate"]


def test_a_few_elements_of_no_bytes_are_taken() -> None:
    described = device("dev", [field("a", "x", 0, array_len=EMPTY_MAX), field("b", "uint8", 1)])
    data = stream(section(5, "dev", b"\7"), [described])
    assert round_trip(data) == data
    assert Document.parse(data).find("dev/b").value == 7


def test_too_many_entries_are_no_description() -> None:
    fields = [field("a", "buffer", 0)] * (ENTRIES_MAX + 1)
    text = json.dumps({"page_size": 4096, "devices": [device("d", fields)]}).encode()
    assert parse_vmdesc(text, len(text)) is None
    assert parse_vmdesc(text.replace(b", ", b"", 0)[:100], 100) is None


@pytest.mark.parametrize("data", [b"", b"QEVM\0\0\0\3\0", QEMU_NONE_STREAM[:0x100], b"\x06" * 99])
def test_a_stream_without_a_description_builds_no_machine(data: bytes) -> None:
    with pytest.raises(LoadError, match="no vmdesc"):
        foreign_machine(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.sampled_from(["uint8", "struct", "a/b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "type", "size", "struct", "fields", "subsections", "vmsd_name", "version",
             "array_len", "index", "instance_id"]
        ),
        inner, max_size=6,
    ),
    max_leaves=25,
)  # fmt: skip


@MODEST
@given(st.lists(JSON, max_size=3), st.integers(0, 400), st.binary(max_size=5))
def test_whatever_the_description_a_document_covers_its_stream(
    devices: list[Any], cut: int, new: bytes
) -> None:
    whole = json.loads(QEMU_NONE_STREAM[0x105:])
    whole["devices"] += devices
    text = json.dumps(whole).encode()
    text = text[:cut] + new + text[cut:] if new else text
    data = QEMU_NONE_STREAM[:0x101] + len(text).to_bytes(4, "big") + text
    assert not fault_of(Document.parse(data), data)
    try:
        machine = foreign_machine(data)
        load_from_bytes(machine, data)
    except LoadError:
        return
    save_to_bytes(machine)


# -- stock QEMU -----------------------------------------------------------------------------

NICS = ["-device", "virtio-net-pci", "-device", "e1000", "-device", "isa-serial"]
QEMU_MACHINES = {
    "none": ["-M", "none"],
    "microvm": ["-M", "microvm", "-device", "isa-serial"],
    "isapc": ["-M", "isapc", "-device", "isa-serial"],
    "pc": ["-M", "pc", *NICS],
    "q35": ["-M", "q35", *NICS],
    "pc without footers": ["-M", "pc-i440fx-2.3"],
    "q35 with several cpus": ["-M", "q35", "-smp", "3", "-device", "qemu-xhci", "-vga", "std"],
}


def capture(binary: str, arguments: list[str], folder: Path) -> bytes:
    """The stream of a stopped machine, as ``migrate`` writes it to a file."""
    target = folder / "stream"
    command = [
        binary, *arguments, "-m", "16", "-S", "-nodefaults", "-display", "none",
        "-monitor", "stdio",
    ]  # fmt: skip
    script = f'migrate "exec:cat > {target}"\nquit\n'
    subprocess.run(
        command, input=script, text=True, capture_output=True, timeout=CAPTURE_SECONDS, check=True
    )
    return target.read_bytes()


@pytest.mark.qemu
@pytest.mark.parametrize("arguments", QEMU_MACHINES.values(), ids=QEMU_MACHINES.keys())
def test_the_stream_of_a_stock_qemu_is_saved_again_bit_for_bit(
    qemu_binary: str, arguments: list[str], tmp_path: Path
) -> None:
    data = capture(qemu_binary, arguments, tmp_path)
    machine = foreign_machine(data)
    load_from_bytes(machine, data)
    assert save_to_bytes(machine) == data
    document = Document.parse(data)
    assert [str(problem) for problem in document.problems] == []
    assert not fault_of(document, data)
    assert list(document.leaves(Role.OPAQUE)) == []
    paths = [node.path for node in document.walk()]
    assert len(set(paths)) == len(paths)
