"""What a Document says of a stream that is as it should be."""

import pytest

from savevm.board import full_machine, none_machine, small_machine
from savevm.commands import Command
from savevm.document import Document, Node, NodeKind, RamRunNode, Role
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

PAGE = 4096
MACHINES = {"none": none_machine, "small": small_machine, "full": full_machine}


def saved(name: str, steps: int = 40) -> tuple[Machine, bytes]:
    machine = MACHINES[name]()
    machine.step(steps)
    return machine, save_to_bytes(machine)


def span(node: Node) -> tuple[int, int]:
    return node.start, node.end


# -- the real stream of section 8 of the wire format -----------------------------------------


def test_a_real_stream_has_no_problems() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    assert document.problems == []
    assert not fault_of(document, QEMU_NONE_STREAM)


def test_sections_have_their_headers_and_spans() -> None:
    found = [
        (s.type_label, s.section_id, s.idstr, s.instance_id, s.version_id, s.start, s.end)
        for s in Document.parse(QEMU_NONE_STREAM).sections
    ]
    assert found == [
        ("START", 2, "ram", 0, 4, 0x11, 0x37),
        ("END", 2, "ram", None, None, 0x37, 0x49),
        ("FULL", 0, "timer", 0, 2, 0x49, 0x79),
        ("FULL", 4, "globalstate", 0, 1, 0x79, 0xFF),
    ]


@pytest.mark.parametrize(
    ("path", "start", "end", "value"),
    [
        ("header/magic", 0, 4, 0x5145564D),
        ("header/version", 4, 8, 3),
        ("configuration/len", 9, 13, 4),
        ("configuration/name", 13, 17, b"none"),
        ("ram/START/section id", 0x12, 0x16, 2),
        ("ram/START/idstr", 0x16, 0x1A, "ram"),
        ("ram/START/version id", 0x1E, 0x22, 4),
        ("ram/START/mem size/ram header", 0x22, 0x2A, 4),
        ("ram/START/footer/footer section id", 0x33, 0x37, 2),
        ("ram/END/eos/ram header", 0x3C, 0x44, 0x10),
        ("timer/cpu_ticks_offset", 0x5C, 0x64, 0),
        ("timer/unused", 0x64, 0x6C, bytes(8)),
        ("timer/footer/footer mark", 0x74, 0x75, 0x7E),
        ("globalstate/size", 0x92, 0x96, 10),
        ("globalstate/runstate", 0x96, 0xFA, b"prelaunch".ljust(100, b"\0")),
        ("eof", 0xFF, 0x100, 0),
        ("vmdesc/vmdesc size", 0x101, 0x105, 0x1E6),
    ],
)
def test_leaves_have_paths_spans_and_values(path: str, start: int, end: int, value: object) -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    node = document.find(path)
    assert (node.path, *span(node), node.value) == (path, start, end, value)
    assert document.leaf_at(start) is node
    assert document.leaf_at(end - 1) is node


def test_types_are_those_of_the_description() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    assert document.find("timer/cpu_clock_offset").type_name == "int64"
    assert document.find("globalstate/runstate").type_name == "buffer"


@pytest.mark.parametrize("cut", [0, 1, 300])
def test_an_array_read_at_once_is_what_it_is_read_one_by_one(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, stream = saved("full")
    stream = stream[: len(stream) - cut * 40]

    def tree() -> list[tuple[object, ...]]:
        return [
            (n.path, n.kind, span(n), n.role, n.type_name, n.value, n.element_size)
            for n in Document.parse(stream, lambda: machine).walk()
        ]

    at_once = tree()
    monkeypatch.setattr("savevm.vmstate.loading.AT_ONCE_MIN", 1 << 40)
    assert at_once == tree()
    assert any(isinstance(row[5], list) and len(row[5]) >= 16 for row in at_once)


def test_an_absent_path_is_a_key_error() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    for path in ("", "timer/nothing", "timer[3]", "timer/cpu_ticks_offset[0]", "x/y/page 0x0"):
        with pytest.raises(KeyError):
            document.find(path)


def test_no_leaf_is_at_an_offset_outside_the_stream() -> None:
    document = Document.parse(QEMU_NONE_STREAM)
    for offset in (-1, len(QEMU_NONE_STREAM)):
        with pytest.raises(IndexError):
            document.leaf_at(offset)


def test_what_follows_the_vmdesc_is_a_trailer() -> None:
    data = QEMU_NONE_STREAM + b"anything"
    document = Document.parse(data)
    assert [span(leaf) for leaf in document.leaves(Role.TRAILER)] == [(747, 755)]
    assert document.problems == []


# -- streams of the reference -----------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("known", [True, False], ids=["machine", "vmdesc"])
def test_a_stream_of_the_reference_has_no_problems(name: str, known: bool) -> None:
    _, data = saved(name)
    document = Document.parse(data, MACHINES[name] if known else None)
    assert [str(problem) for problem in document.problems] == []
    assert list(document.leaves(Role.OPAQUE)) == []
    assert not fault_of(document, data)


@pytest.mark.parametrize("known", [True, False], ids=["machine", "vmdesc"])
def test_paths_are_unique_and_lead_back(known: bool) -> None:
    _, data = saved("full")
    document = Document.parse(data, full_machine if known else None)
    nodes = [node for node in document.walk() if node.parent is not None]
    assert len({node.path for node in nodes}) == len(nodes)
    assert all(document.find(node.path) is node for node in nodes)


def test_the_layout_of_a_machine_and_of_its_vmdesc_are_the_same() -> None:
    # Containers are opaque counts in a vmdesc, so only plain fields can be compared.
    _, data = saved("full")
    by_machine = Document.parse(data, full_machine)
    by_vmdesc = Document.parse(data)
    for section, other in zip(by_machine.sections, by_vmdesc.sections, strict=True):
        assert span(section) == span(other)
    plain = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
    compared = 0
    for leaf in by_machine.leaves(Role.FIELD):
        twin = by_vmdesc.leaf_at(leaf.start)
        if twin.type_name in plain and leaf.type_name == twin.type_name:
            compared += 1
            value = leaf.value
            if isinstance(value, list) and leaf.count == 1:
                # A vmdesc does not say that this is an array.
                value = value[0]
            assert (span(leaf), value) == (span(twin), twin.value)
    assert compared > 100


def test_a_stream_without_a_known_layout_has_opaque_payloads_between_its_footers() -> None:
    machine = full_machine()
    machine.suppress_vmdesc = True
    data = save_to_bytes(machine)
    document = Document.parse(data)
    known = Document.parse(data, full_machine)
    assert [span(s) for s in document.sections] == [span(s) for s in known.sections]
    assert document.problems == []
    cpu = next(s for s in document.sections if s.idstr == "cpu")
    assert [leaf.role for leaf in cpu.fields] == [Role.OPAQUE]


def test_a_device_that_the_machine_lacks_is_named_and_opaque() -> None:
    _, data = saved("full")
    document = Document.parse(data, small_machine)
    missing = {s.idstr for s in document.sections if s.fields[:1] and s.fields[0].role == "opaque"}
    named = {problem.path[0] for problem in document.problems}
    assert missing
    assert named == missing


def test_an_array_of_primitives_is_one_leaf_with_elements() -> None:
    _, data = saved("full")
    document = Document.parse(data)
    arrays = [leaf for leaf in document.leaves(Role.FIELD) if leaf.element_size]
    assert arrays
    for array in arrays:
        assert isinstance(array.value, list)
        assert len(array.value) == array.count
        last = array.element(array.count - 1)
        assert document.find(f"{array.path}[{array.count - 1}]").path == last.path
        assert span(last) == (array.end - array.element_size, array.end)
        assert last.value == array.value[-1]
        with pytest.raises(IndexError):
            array.element(array.count)


def test_subsections_have_their_mark_name_and_version() -> None:
    _, data = saved("full")
    document = Document.parse(data, full_machine)
    subsections = [node for node in document.walk() if node.kind is NodeKind.SUBSECTION]
    assert subsections
    for node in subsections:
        assert [leaf.role for leaf in node.children[:3]] == [
            Role.SUBSECTION_MARK, Role.SUBSECTION_NAME, Role.SUBSECTION_VERSION,
        ]  # fmt: skip
        assert document.bytes_of(node.children[0]) == b"\x05"
        assert node.children[1].value == node.type_name


# -- RAM ------------------------------------------------------------------------------------------


def ram_machine() -> Machine:
    machine = small_machine(ram_bytes=64 * PAGE)
    assert machine.ram is not None
    block = machine.ram.blocks[0]
    for page in range(20, 40):
        block.write(page * PAGE, bytes([page]) * PAGE)
    return machine


def test_long_runs_of_pages_are_one_leaf_whose_items_can_be_found() -> None:
    data = save_to_bytes(ram_machine())
    document = Document.parse(data, small_machine)
    assert document.problems == [] or document.problems[0].path[0] == "ram"
    document = Document.parse(data)
    assert document.problems == []
    runs = [node for node in document.walk() if isinstance(node, RamRunNode)]
    full = next(run for run in runs if run.role is Role.RAM_PAGE)
    assert full.items >= 19
    for index in (0, full.items - 1):
        address = full.item_address(index)
        item = document.find(f"ram/PART[0]/{full.block}/page {address:#x}")
        assert span(item) == full.item_span(index)
        header, body = item.children
        assert int.from_bytes(document.bytes_of(header), "big") == header.value
        assert document.bytes_of(body) == bytes([address // PAGE]) * PAGE
        assert not item.path.endswith("~1")
    zero = next(run for run in runs if run.role is Role.RAM_FILL)
    item = document.find(f"ram/PART[0]/{zero.block}/zero {zero.item_address(1):#x}")
    assert item.children[1].value == 0
    with pytest.raises(IndexError):
        zero.item_span(zero.items)


def test_block_lists_have_names_and_lengths() -> None:
    data = save_to_bytes(ram_machine())
    document = Document.parse(data)
    start = document.sections[0] if document.sections[0].idstr == "ram" else document.sections[1]
    names = [leaf for leaf in start.fields if leaf.role is Role.RAM_NAME]
    lengths = [leaf for leaf in start.fields if leaf.role is Role.RAM_LENGTH]
    assert [leaf.value for leaf in names] == ["pc.ram"]
    assert [leaf.value for leaf in lengths] == [64 * PAGE]


# -- what else a stream may have --------------------------------------------------------------


def command(number: int, payload: bytes) -> bytes:
    return b"\x08" + number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def test_commands_are_nodes_between_sections() -> None:
    ping = command(Command.PING, b"\0\0\0\7")
    data = QEMU_NONE_STREAM[:0x79] + ping + QEMU_NONE_STREAM[0x79:]
    document = Document.parse(data)
    assert document.problems == []
    node = document.find("PING")
    assert (node.kind, *span(node)) == (NodeKind.COMMAND, 0x79, 0x79 + len(ping))
    assert document.bytes_of(document.find("PING/command data")) == b"\0\0\0\7"


def test_sections_inside_a_package_are_sections() -> None:
    inner = QEMU_NONE_STREAM[0x49:0x79]
    package = command(Command.PACKAGED, len(inner).to_bytes(4, "big"))
    data = QEMU_NONE_STREAM[:0x49] + package + inner + QEMU_NONE_STREAM[0x79:]
    document = Document.parse(data)
    assert document.problems == []
    assert [s.idstr for s in document.sections] == ["ram", "ram", "timer", "globalstate"]


def test_a_stream_of_a_machine_type_without_footers_has_none_and_no_problems() -> None:
    machine = small_machine()
    machine.skip_section_footers = True
    data = save_to_bytes(machine)
    document = Document.parse(data)
    assert [str(problem) for problem in document.problems] == []
    assert all(section.footer is None for section in document.sections)
    assert not fault_of(document, data)
    assert [s.idstr for s in document.sections] == [
        s.idstr for s in Document.parse(save_to_bytes(small_machine())).sections
    ]


def test_without_footers_and_layout_sections_are_told_apart_by_their_headers() -> None:
    machine = small_machine()
    machine.skip_section_footers = machine.suppress_vmdesc = True
    data = save_to_bytes(machine)
    document = Document.parse(data)
    assert document.problems == []
    assert [s.idstr for s in document.sections] == [
        s.idstr for s in Document.parse(save_to_bytes(small_machine())).sections
    ]
    assert document.find("eof").end == len(data)
