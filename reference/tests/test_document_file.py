"""A Document of a file: the same tree, without the file in memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from savevm.board import full_machine
from savevm.document import Document, Node, RamRunNode, RamSpanNode, Role
from savevm.document.inspection import describe
from savevm.document.recorder import LEAF_BYTES_KEPT, RAM_NODES_MAX
from savevm.document.store import OVERLAP, WINDOW, FileStore, MemoryStore
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

PAGE = 4096
NAME = b"\x06pc.ram"
FOOTER = b"\x7e\0\0\0\2"
EOS = (0x10).to_bytes(8, "big")


def word(address: int, flags: int) -> bytes:
    return (address | flags).to_bytes(8, "big")


def ram_stream(items: bytes, length: int) -> bytes:
    """A stream with nothing but one block of RAM, the items in one PART."""
    return (
        b"QEVM\0\0\0\3\x01\0\0\0\2\3ram\0\0\0\0\0\0\0\4"
        + word(length, 4) + NAME + length.to_bytes(8, "big") + EOS + FOOTER
        + b"\2\0\0\0\2" + items + EOS + FOOTER
        + b"\3\0\0\0\2" + EOS + FOOTER + b"\0"
    )  # fmt: skip


def pages(count: int) -> bytes:
    first = word(0, 8) + NAME + bytes([1]) * PAGE
    body = bytes(range(256)) * 16
    return first + b"".join(word(number * PAGE, 0x28) + body for number in range(1, count))


def shape(node: Node) -> tuple[object, ...]:
    return node.kind, node.path, node.start, node.end, node.role, node.type_name, node.value


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
def test_a_file_and_its_bytes_have_the_same_tree(tmp_path: Path, damaged: bool) -> None:
    machine = full_machine()
    machine.step(40)
    data = save_to_bytes(machine)
    if damaged:
        middle = len(data) // 3
        data = data[:middle] + b"junk" + data[middle:]
        data = data.replace(b"\x7e\0\0\0\4", b"\x7f\0\0\0\4")
    path = tmp_path / "stream"
    path.write_bytes(data)
    by_file, by_bytes = Document.parse_file(path), Document.parse(data)
    assert [shape(node) for node in by_file.walk()] == [shape(node) for node in by_bytes.walk()]
    assert [str(p) for p in by_file.problems] == [str(p) for p in by_bytes.problems]
    assert bool(by_file.problems) == damaged
    assert not fault_of(by_file, data)


def test_edits_of_a_file_read_it_again(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(QEMU_NONE_STREAM)
    document = Document.parse_file(path)
    edited = document.with_value(document.find("timer/cpu_clock_offset"), 5)
    assert edited == Document.parse(QEMU_NONE_STREAM).with_value(
        document.find("timer/cpu_clock_offset"), 5
    )
    document.close()
    document.close()


@pytest.mark.parametrize("name", ["nothing", "folder"])
def test_what_is_no_readable_file_is_an_os_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        Document.parse_file(tmp_path / name)


def test_long_values_of_a_file_are_read_when_asked_for(tmp_path: Path) -> None:
    size = LEAF_BYTES_KEPT + 1
    data = QEMU_NONE_STREAM[:0x101] + size.to_bytes(4, "big") + b"{".ljust(size, b" ")
    path = tmp_path / "stream"
    path.write_bytes(data)
    leaf = Document.parse_file(path).find("vmdesc/vmdesc")
    assert leaf.value is None
    assert Document.parse_file(path).bytes_of(leaf) == data[leaf.start :]
    assert Document.parse(data).find("vmdesc/vmdesc").value == data[leaf.start :]


PEAK_OF_INSPECTING: Final = """
import sys, tracemalloc
from savevm.document import Document
from savevm.document.inspection import describe
Document.parse_file(sys.argv[1])  # what is loaded once is not the file's
tracemalloc.start()
inspection = describe(Document.parse_file(sys.argv[1]))
print(tracemalloc.get_traced_memory()[1], len(inspection.problems))
"""


def test_a_file_of_ram_takes_little_memory(tmp_path: Path) -> None:
    data = ram_stream(pages(8000), 8000 * PAGE)
    path = tmp_path / "stream"
    path.write_bytes(data)
    # In a process of its own: what measures coverage allocates while it measures.
    done = subprocess.run(
        [sys.executable, "-c", PEAK_OF_INSPECTING, str(path)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
        text=True,
    )
    peak, problems = map(int, done.stdout.split())
    assert problems == 0
    assert peak < 8 << 20 < len(data) // 3


def test_a_file_of_ram_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(ram_stream(pages(80), 80 * PAGE))
    document = Document.parse_file(path)
    runs = [node for node in document.walk() if isinstance(node, RamRunNode)]
    assert [run.items for run in runs] == [79]


def test_ram_that_jumps_about_is_gathered_beyond_a_bound(tmp_path: Path) -> None:
    count = RAM_NODES_MAX + 5000
    items = [word(0, 2) + NAME + b"\0"]
    # Backwards, so that no two items make a run.
    items += [word(number * PAGE, 0x22) + b"\0" for number in range(count, 0, -1)]
    data = ram_stream(b"".join(items), (count + 1) * PAGE)
    path = tmp_path / "stream"
    path.write_bytes(data)
    document = Document.parse_file(path)
    assert not fault_of(document, data)
    spans = [node for node in document.walk() if isinstance(node, RamSpanNode)]
    assert [(span.block, span.items) for span in spans] == [("pc.ram", {2: 5001})]
    part = describe(document).sections[1]
    assert part.ram is not None
    assert part.ram.zero_pages == count + 1
    # In memory there is a node for each: whoever has the bytes can afford it.
    assert sum(isinstance(n, RamSpanNode) for n in Document.parse(data).walk()) == 0


def test_runs_of_ram_are_gathered_beyond_a_bound(tmp_path: Path) -> None:
    count = RAM_NODES_MAX + 10
    items = [word(0, 2) + NAME + b"\0"]
    for run in range(count):
        # Runs of four, with a page missing between them.
        items += [word((5 * run + page) * PAGE, 0x22) + b"\0" for page in range(1, 5)]
    data = ram_stream(b"".join(items), 5 * count * PAGE)
    path = tmp_path / "stream"
    path.write_bytes(data)
    document = Document.parse_file(path)
    assert not fault_of(document, data)
    spans = [node for node in document.walk() if isinstance(node, RamSpanNode)]
    assert [span.items for span in spans] == [{2: 4 * 11}]
    part = describe(document).sections[1]
    assert part.ram is not None
    assert part.ram.zero_pages == 4 * count + 1


@pytest.mark.parametrize("at", [0, WINDOW - 3, WINDOW, WINDOW + 7, 2 * WINDOW - 1])
def test_patterns_are_found_across_windows(tmp_path: Path, at: int) -> None:
    import re

    pattern = b"\x7e\0\0\0\2\4"
    data = bytearray(2 * WINDOW + OVERLAP)
    data[at : at + len(pattern)] = pattern
    path = tmp_path / "stream"
    path.write_bytes(data)
    file, memory = FileStore(path), MemoryStore(bytes(data))
    for store in (file, memory):
        assert store.find(pattern, 0, store.size) == at
        assert store.find(pattern, at + 1, store.size) == -1
        assert store.find(pattern, 0, at + len(pattern) - 1) == -1
        assert list(store.finditer(re.compile(re.escape(pattern)), 0, store.size)) == [at]
    file.close()


def test_an_item_of_a_run_is_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(ram_stream(pages(300), 300 * PAGE))
    document = Document.parse_file(path)
    item = document.find("ram/PART[0]/pc.ram/page 0x12b000")
    assert document.bytes_of(item.children[1]) == bytes(range(256)) * 16
    assert item.children[1].role is Role.RAM_PAGE
