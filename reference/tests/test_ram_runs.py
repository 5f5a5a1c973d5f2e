"""Runs of items taken at once: the same as one by one, however the bytes arrive."""

from dataclasses import dataclass, field
from errno import EIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.errors import LoadError
from savevm.profile import SEED, STRICT, Profile
from savevm.qemufile import Buffer, ChunkSource, QEMUFileReader, SuspendingSource
from savevm.ram import RAMItem, RAMListEntry, RAMState, ram_load
from savevm.ram.runs import BATCH

PAGE = 1024
EOS = bytes.fromhex("0000000000000010")


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def content(number: int) -> bytes:
    return bytes([number % 251 + 1]) * PAGE


def pages(first: int, count: int) -> bytes:
    """PAGE|CONTINUE items."""
    return b"".join(
        word(number * PAGE | 0x28) + content(number) for number in range(first, first + count)
    )


def zeros(first: int, count: int) -> bytes:
    """ZERO|CONTINUE items."""
    return b"".join(word(number * PAGE | 0x22) + b"\0" for number in range(first, first + count))


def named(flags: int, name: str = "a", address: int = 0) -> bytes:
    return word(address | flags) + bytes([len(name)]) + name.encode()


@dataclass(frozen=True)
class Outcome:
    """All one can see of a load."""

    error: str
    errno: int
    offset: int | None
    path: tuple[str, ...]
    qemu: str
    consumed: int
    digest: str
    dirty: tuple[bytes, ...]


def outcome(
    data: bytes,
    *,
    runs: bool,
    profile: Profile = STRICT,
    sizes: list[int] | None = None,
    staged: bool = False,
) -> Outcome:
    ram = RAMState(PAGE, decode_runs=runs)
    ram.add_block("a", 200 * PAGE, 220 * PAGE).write(0, b"\xaa" * 200 * PAGE)
    ram.add_block("b", 2 * PAGE).write(0, b"\xbb" * 2 * PAGE)
    for block in ram.blocks:
        block.memory.mark_clean(0, block.used_pages)
    if staged:
        ram.stage()
    f = QEMUFileReader(data if sizes is None else ChunkSource.split(data, sizes), profile=profile)
    refused = LoadError("")
    try:
        ram_load(f, ram, 4)
    except LoadError as error:
        refused = error
    if staged:
        ram.commit()
    return Outcome(
        refused.reason,
        refused.errno,
        refused.offset,
        refused.path,
        refused.qemu,
        f.tell(),
        ram.digest(),
        tuple(bytes(block.memory.dirty) for block in ram.blocks),
    )


RUN = st.one_of(
    st.builds(pages, st.integers(0, 205), st.integers(1, 70)),
    st.builds(zeros, st.integers(0, 205), st.integers(1, 70)),
    st.sampled_from(
        [
            named(0x02) + b"\0",
            named(0x08) + content(9),
            named(0x02, "b") + b"\0",
            named(0x40) + b"\x01\x00\x03\x05\x01\x41",
            zeros(0, 66)[:-1] + b"\7",
            pages(0, 3) + zeros(3, 3) + pages(7, 2),
            EOS,
        ]
    ),
)
SIZES = st.one_of(
    st.none(), st.lists(st.sampled_from([1, 7, 8, 9, 1031, 1032, 1033, 5000, 70_000]), min_size=1)
)


@settings(deadline=None)
@given(
    items=st.lists(RUN, min_size=1, max_size=5),
    edits=st.lists(st.tuples(st.integers(0, 1 << 18), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 1 << 18),
    profile=st.sampled_from([STRICT, SEED]),
    sizes=SIZES,
    staged=st.booleans(),
)
def test_runs_are_what_their_items_are_one_by_one(
    items: list[bytes],
    edits: list[tuple[int, int]],
    cut: int,
    profile: Profile,
    sizes: list[int] | None,
    staged: bool,
) -> None:
    data = bytearray(named(0x02) + b"\0" + b"".join(items) + EOS)
    for where, value in edits:
        at = where % len(data)
        # Near an item's word, where it matters, more often than inside a page.
        at = at - at % 1032 + at % 20 if at & 1 else at
        data[at % len(data)] = value
    stream = bytes(data[: len(data) - cut % 64 if cut & 1 else len(data)])
    plain = outcome(stream, runs=False, profile=profile, staged=staged)
    assert outcome(stream, runs=True, profile=profile, sizes=sizes, staged=staged) == plain
    assert outcome(stream, runs=False, profile=profile, sizes=sizes, staged=staged) == plain


@pytest.mark.parametrize("count", [1, 2, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH - 1])
@pytest.mark.parametrize("make", [pages, zeros])
def test_a_run_of_any_length_arrives_whole(count: int, make: object) -> None:
    assert callable(make)
    data = named(0x02) + b"\0" + make(1, count) + EOS
    taken = outcome(data, runs=True)
    assert taken.error == ""
    assert taken.consumed == len(data)
    assert taken == outcome(data, runs=False)
    assert taken.dirty[0][: count + 2] == b"\1" * (count + 1) + b"\0"


def test_a_run_that_leaves_its_block_is_loaded_up_to_there_and_refused() -> None:
    data = named(0x02) + b"\0" + pages(190, 20) + EOS
    taken = outcome(data, runs=True)
    assert taken.path == ("a", f"page {200 * PAGE:#x}")
    assert taken.offset == 11 + 10 * 1032
    assert taken == outcome(data, runs=False)


def test_nothing_is_waited_for_that_need_not_come() -> None:
    stream = named(0x02) + b"\0" + pages(1, 70) + zeros(71, 3) + EOS
    asked_behind = []
    position = 0

    def wait(size: int) -> Buffer:
        nonlocal position
        if position >= len(stream):
            asked_behind.append(size)
        piece = stream[position : position + 100]
        position += len(piece)
        return piece

    ram = RAMState(PAGE)
    ram.add_block("a", 80 * PAGE)
    ram_load(QEMUFileReader(SuspendingSource(wait)), ram, 4)
    assert asked_behind == []


class Failing:
    """A source that fails after some bytes."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def read(self, size: int) -> Buffer:
        if not self._data:
            raise OSError(EIO, "gone")
        piece, self._data = self._data[: self._size], self._data[self._size :]
        return piece

    def close(self) -> None:
        pass


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("length", [4, 11, 11 + 5, 11 + 1032, 11 + 1032 + 8, 11 + 1032 + 500])
def test_a_source_that_fails_ends_both_ways_alike(length: int, profile: Profile) -> None:
    data = (named(0x02) + b"\0" + pages(1, 5) + EOS)[:length]
    results = []
    for runs in (True, False):
        ram = RAMState(PAGE, decode_runs=runs)
        ram.add_block("a", 16 * PAGE)
        with pytest.raises(LoadError) as caught:
            ram_load(QEMUFileReader(Failing(data, 300), profile=profile), ram, 4)
        error = caught.value
        results.append((error.errno, error.offset, error.path, error.reason, ram.digest()))
    assert results[0] == results[1]


# -- recording -----------------------------------------------------------------------------------


@dataclass
class Node:
    kind: str
    name: str
    start: int
    type_name: str
    end: int = -1
    value: object = None
    reads: list[tuple[str, int, int, object]] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


class Listener:
    """A recorder that keeps what it hears as a list of nodes and runs."""

    def __init__(self) -> None:
        self.heard: list[Node | tuple[int, str, int, int, int, int]] = []
        self._open: list[Node] = []

    def enter(self, kind: str, name: str, start: int, type_name: str = "") -> None:
        node = Node(str(kind), name, start, type_name)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.heard.append(node)
        self._open.append(node)

    def leave(self, end: int) -> None:
        self._open.pop().end = end

    def read(self, what: str, start: int, end: int, value: object) -> None:
        self._open[-1].reads.append((str(what), start, end, value))

    def value(self, value: object) -> None:
        self._open[-1].value = value

    def ram_run(
        self, flags: int, block: str, address: int, count: int, start: int, end: int
    ) -> None:
        self.heard.append((flags, block, address, count, start, end))

    def array(self, start: int, size: int, values: list[int]) -> None:
        raise AssertionError("no arrays")

    def problem(self, error: LoadError) -> None:
        raise AssertionError(error)


class Recording(QEMUFileReader):
    """A reader that tells its recorder what it reads, and goes on after faults."""

    recorder: Listener

    def __init__(self, source: object, listener: Listener) -> None:
        super().__init__(source)  # type: ignore[arg-type]
        self.recorder = listener
        self.faults: list[str] = []

    def complain(self, error: LoadError) -> None:
        self.faults.append(str(error))

    def get_byte(self, what: str = "") -> int:
        start, value = self.tell(), super().get_byte(what)
        self.recorder.read(what, start, self.tell(), value)
        return value

    def get_be16(self, what: str = "") -> int:
        start, value = self.tell(), super().get_be16(what)
        self.recorder.read(what, start, self.tell(), value)
        return value

    def get_be32(self, what: str = "") -> int:
        start, value = self.tell(), super().get_be32(what)
        self.recorder.read(what, start, self.tell(), value)
        return value

    def get_be64(self, what: str = "") -> int:
        start, value = self.tell(), super().get_be64(what)
        self.recorder.read(what, start, self.tell(), value)
        return value

    def get_buffer(self, size: int, what: str = "") -> bytes:
        start, value = self.tell(), super().get_buffer(size, what)
        self.recorder.read(what, start, self.tell(), value)
        return value


def recorded(
    data: bytes, sizes: list[int] | None = None, *, adopt: bool = True
) -> tuple[Listener, Recording]:
    ram = RAMState(PAGE, adopt=adopt, store=False)
    listener = Listener()
    f = Recording(data if sizes is None else ChunkSource.split(data, sizes), listener)
    ram_load(f, ram, 4)
    return listener, f


LIST = word(300 * PAGE | 4) + b"\x01a" + word(300 * PAGE)


def test_a_long_run_is_told_once_however_it_arrives() -> None:
    data = LIST + named(0x02) + b"\0" + pages(1, 150) + zeros(151, 4) + pages(155, 3) + EOS
    listener, _ = recorded(data)
    start = len(LIST) + 11
    middle = start + 150 * 1032
    assert [item for item in listener.heard if isinstance(item, tuple)] == [
        (0x28, "a", PAGE, 150, start, middle),
        (0x22, "a", 151 * PAGE, 4, middle, middle + 36),
    ]
    assert recorded(data, [1000, 3, 9000])[0].heard == listener.heard
    assert recorded(data, [1])[0].heard == listener.heard


def test_the_nodes_and_runs_of_a_section_cover_it_without_gaps() -> None:
    data = LIST + named(0x08) + content(3) + pages(1, 3) + zeros(4, 2) + zeros(7, 9) + EOS
    listener, f = recorded(data)
    at = 0
    for item in listener.heard:
        start, end = (item.start, item.end) if isinstance(item, Node) else item[4:]
        assert start == at
        at = end
    assert at == len(data) == f.tell()


def test_a_short_run_is_told_item_by_item_like_any_other() -> None:
    data = LIST + named(0x08) + content(0) + pages(1, 3) + zeros(4, 1) + EOS
    one_by_one = RAMState(PAGE, adopt=True, store=False, decode_runs=False)
    listener = Listener()
    ram_load(Recording(data, listener), one_by_one, 4)
    assert recorded(data)[0].heard == listener.heard


def test_items_are_named_typed_and_valued() -> None:
    data = LIST + named(0x40, address=PAGE) + b"\x01\x00\x03\x05\x01\x41" + word(0x200) + EOS
    nodes = [node for node in recorded(data)[0].heard if isinstance(node, Node)]
    assert [(node.name, node.type_name, node.value) for node in nodes] == [
        ("mem size", "mem size", RAMItem(4, "", 300 * PAGE)),
        ("page 0x400", "xbzrle", RAMItem(0x40, "a", PAGE)),
        ("multifd flush", "multifd flush", RAMItem(0x200, "", 0)),
        ("eos", "eos", RAMItem(0x10, "", 0)),
    ]
    assert [role for role, *_ in nodes[1].reads] == [
        "ram header",
        "ram block name",
        "ram block name",
        "xbzrle flag",
        "xbzrle length",
        "xbzrle data",
    ]
    (block,) = nodes[0].children
    assert (block.name, block.value) == ("block 0", RAMListEntry("a", 300 * PAGE))


def test_a_recording_load_goes_on_behind_faults_whose_layout_is_known() -> None:
    data = b"".join(
        [
            zeros(0, 1),
            word(6 * PAGE | 4) + b"\x01a" + word(2 * PAGE) + b"\x01a" + word(2 * PAGE),
            b"\x01b" + word(0) + b"\x01c" + word(99 * PAGE),
            named(0x02, "zz") + b"\0",
            zeros(1, 2),
            named(0x02) + b"\5",
            zeros(2, 1),
            pages(3, 1),
            word(0x60) + b"\2\0\1\0",
            word(7 * PAGE | 0x60) + b"\1\0\3\0\1A",
            word(0x60) + b"\1\4\1" + bytes(0x401),
            named(0x02, "a\0") + b"\0",
            named(0x100) + b"\0\0\0\2xy",
            EOS,
        ]
    )
    _, f = recorded(data)
    assert f.tell() == len(data)
    assert [fault.rpartition(" (offset")[0] for fault in f.faults] == [
        "CONTINUE before any block was named",
        "a: the block is listed twice",
        "b: length 0x0 is not one or more whole pages",
        "c: length 0x18c00 with 0x800 bytes of the total left",
        "no RAM block 'zz' in this machine",
        "a: expected fill byte 0x0, read 0x5",
        "a: address 0x800 in a block of 0x800 bytes",
        "a: address 0xc00 in a block of 0x800 bytes",
        "a: expected encoding 0x1, read 0x2",
        "a: address 0x1c00 in a block of 0x800 bytes",
        "a: expected at most 0x400 encoded bytes, read 0x401",
        "the name 'a\\x00' has a NUL inside",
        "no RAM block 'a\\x00' in this machine",
        "a: a compressed page, which loadvm does not take",
    ]


@pytest.mark.parametrize("data", [word(0x81), word(0x18), LIST + named(0x100) + b"\xff" * 4, b"\0"])
def test_a_recording_load_stops_where_the_layout_is_unknown(data: bytes) -> None:
    listener = Listener()
    with pytest.raises(LoadError):
        ram_load(Recording(data, listener), RAMState(PAGE, adopt=True, store=False), 4)
    assert all(node.end >= 0 for node in listener.heard if isinstance(node, Node))


def test_what_was_gathered_is_told_before_a_fault_leaves() -> None:
    listener = Listener()
    data = LIST + named(0x02) + b"\0" + pages(1, 9) + pages(10, 1)[:50]
    with pytest.raises(LoadError):
        ram_load(Recording(data, listener), RAMState(PAGE, adopt=True, store=False), 4)
    runs = [item for item in listener.heard if isinstance(item, tuple)]
    assert [run[:4] for run in runs] == [(0x28, "a", PAGE, 9)]
    last = listener.heard[-1]
    assert isinstance(last, Node)
    assert (last.name, last.type_name) == ("page 0x2800", "page")
