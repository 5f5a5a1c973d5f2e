"""Images whose snapshots are inputs: written, overwritten under QEMU, and read with distrust."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.machine import MachineSpec, QEMUProcess, running
from loadfuzz.qemu.qcow2 import CAPACITY_MAX, DISK_SIZE_MAX, SLOTS_MAX, Image, blockdev
from loadfuzz.qemu.qcow2_reader import ENTRY, Snapshot, snapshots, vmstate

CLUSTER = 65_536
TWO = (("s0", CLUSTER), ("s1", 2 * CLUSTER))
L1, L2 = 5 * CLUSTER, 6 * CLUSTER
"""Tables of the first slot in an image of ours."""
SECOND_L2 = 8 * CLUSTER
TABLE = 4 * CLUSTER
"""The snapshot table in an image of ours."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with two slots that hold something."""
    path = tmp_path / "image"
    with Image.create(path, TWO) as made:
        made.write("s0", b"QEVM first")
        made.write("s1", b"QEVM" + bytes(range(256)) * 300)
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


# -- writing ------------------------------------------------------------------------------------


def test_a_new_image_has_a_snapshot_of_zeros_for_each_slot(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with Image.create(path, [("s0", 1), ("s1", CLUSTER + 1)]) as made:
        assert [(slot.name, slot.capacity) for slot in made.slots.values()] == [
            ("s0", CLUSTER),
            ("s1", 2 * CLUSTER),
        ]
    assert [
        (each.id, each.name, each.vmstate_size, each.disk_size) for each in snapshots(path)
    ] == [
        ("1", "s0", CLUSTER, CLUSTER),
        ("2", "s1", 2 * CLUSTER, CLUSTER),
    ]
    assert vmstate(path, "s1") == bytes(2 * CLUSTER)


def test_the_largest_image_takes_next_to_no_room_until_it_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image.create(path, [(f"s{number}", CAPACITY_MAX) for number in range(SLOTS_MAX)]).close()
    assert path.stat().st_size > SLOTS_MAX * CAPACITY_MAX
    assert path.stat().st_blocks * 512 < 2 << 20
    assert len(snapshots(path)) == SLOTS_MAX


def test_the_same_arguments_make_the_same_file(tmp_path: Path) -> None:
    Image.create(tmp_path / "a", TWO).close()
    Image.create(tmp_path / "b", TWO).close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_slot_is_overwritten_in_place_and_reads_as_zeros_behind(image: Path) -> None:
    before = image.read_bytes()
    with Image.open(image) as opened:
        slot = opened.slots["s0"]
        for stream in (b"x" * CLUSTER, b"short", b"a little longer", b""):
            opened.write("s0", stream)
            assert opened.read("s0") == stream.ljust(CLUSTER, b"\0") == vmstate(image, "s0")
    after = image.read_bytes()
    end = slot.offset + slot.capacity
    assert (before[: slot.offset], before[end:]) == (after[: slot.offset], after[end:])


def test_only_what_was_there_before_is_zeroed(image: Path) -> None:
    with Image.open(image) as opened:
        slot = opened.slots["s1"]
        opened.write("s1", b"a" * 100)
        patch(image, slot.offset + 50, b"b" * 100)
        opened.write("s1", b"c" * 10)
        assert opened.read("s1")[:200].replace(b"\0", b".") == (
            b"c" * 10 + b"." * 90 + b"b" * 50 + b"." * 50
        )


def test_an_opened_image_is_zeroed_to_the_end_the_first_time(image: Path) -> None:
    with Image.open(image) as opened:
        opened.write("s1", b"new")
        assert opened.read("s1") == b"new".ljust(2 * CLUSTER, b"\0")


def test_a_stream_that_does_not_fit_changes_nothing(image: Path) -> None:
    with Image.open(image) as opened:
        before = opened.read("s0")
        with pytest.raises(UsageError, match="65537 bytes does not fit in slot 's0' of 65536"):
            opened.write("s0", bytes(CLUSTER + 1))
        assert opened.read("s0") == before


def test_a_slot_that_is_not_there_is_named_with_those_that_are(image: Path) -> None:
    with Image.open(image) as opened:
        with pytest.raises(UsageError, match="no slot 's2'; it has s0, s1"):
            opened.write("s2", b"")
        with pytest.raises(UsageError, match="no slot 's2'"):
            opened.read("s2")


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ([], "0 slots"),
        ([(f"s{number}", 1) for number in range(SLOTS_MAX + 1)], "65 slots"),
        ([("s0", 0)], "0 bytes"),
        ([("s0", CAPACITY_MAX + 1)], "8388609 bytes"),
        ([("s0", 1), ("s0", 1)], "no name twice"),
        ([("", 1)], "letters"),
        ([("two words", 1)], "letters"),
        ([("1", 1)], "letters"),
        ([("a\n", 1)], "letters"),
        ([("a" * 65, 1)], "at most 64"),
    ],
)
def test_slots_that_cannot_be_are_refused(
    slots: list[tuple[str, int]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        Image.create(tmp_path / "image", slots)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -512, 511, (1 << 40) + 512])
def test_disks_that_cannot_be_are_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="disk of"):
        Image.create(tmp_path / "image", TWO, disk_size=size)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_overwritten(image: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(UsageError, match="File exists; choose another place"):
        Image.create(image, TWO)
    assert image.read_bytes() == before
    with pytest.raises(UsageError, match="cannot make"):
        Image.create(image.parent / "no" / "folder", TWO)
    with pytest.raises(UsageError, match="cannot make"):
        Image.create(image.parent / "a\0b", TWO)


def test_a_full_disk_is_our_trouble_and_a_shorter_stream_fits_again(small_disk: Path) -> None:
    with Image.create(small_disk / "image", [("s0", 4 << 20)]) as made:
        with pytest.raises(InfraError, match=r"No space left on device; make room in .*disk"):
            made.write("s0", b"x" * (4 << 20))
        made.write("s0", b"short")
        assert made.read("s0") == b"short".ljust(4 << 20, b"\0")


def test_an_image_that_does_not_fit_leaves_nothing_behind(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1400 << 10))
    with pytest.raises(InfraError, match="make room"):
        Image.create(small_disk / "image", [(f"s{number}", 1) for number in range(SLOTS_MAX)])
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_an_image_that_somebody_cut_off_is_our_trouble(image: Path) -> None:
    with Image.open(image) as opened:
        os.truncate(image, opened.slots["s1"].offset)
        with pytest.raises(InfraError, match="cut off by somebody"):
            opened.read("s1")


def test_restoring_makes_all_tables_as_new_and_leaves_the_slots(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with Image.create(path, TWO) as made:
        made.write("s1", b"kept")
        whole = path.read_bytes()
        tables = made.slots["s0"].offset
        patch(path, 0, b"\xff" * tables)
        with path.open("ab") as file:
            file.write(b"what savevm appended")
        made.restore()
        assert path.read_bytes() == whole
    with Image.open(path) as opened:
        with pytest.raises(UsageError, match="made by somebody else"):
            opened.restore()


def test_closing_twice_is_allowed(image: Path) -> None:
    opened = Image.open(image)
    opened.close()
    opened.close()


# -- reading ------------------------------------------------------------------------------------


def test_a_vm_state_in_pieces_is_put_together(image: Path) -> None:
    whole = vmstate(image, "s1")
    first, second = (image.read_bytes()[SECOND_L2 + at : SECOND_L2 + at + 8] for at in (0, 8))
    patch(image, SECOND_L2, second + first)
    assert vmstate(image, "s1") == whole[CLUSTER:] + whole[:CLUSTER]
    with Image.open(image) as opened:
        assert list(opened.slots) == ["s0"]


@pytest.mark.parametrize("entry", [u64(0), u64(1)], ids=["unallocated", "zero flag"])
def test_what_is_not_stored_reads_as_zeros(entry: bytes, image: Path) -> None:
    stored = image.read_bytes()[SECOND_L2 : SECOND_L2 + 8]
    flagged = u64(int.from_bytes(stored) | int.from_bytes(entry)) if any(entry) else entry
    whole = vmstate(image, "s1")
    patch(image, SECOND_L2, flagged)
    assert vmstate(image, "s1") == bytes(CLUSTER) + whole[CLUSTER:]
    with Image.open(image) as opened:
        assert list(opened.slots) == ["s0"]


def test_without_a_second_level_table_all_is_zeros(image: Path) -> None:
    patch(image, L1 + 8, u64(0))
    assert vmstate(image, "s0") == bytes(CLUSTER)


def test_a_snapshot_that_is_not_there_is_named_with_those_that_are(image: Path) -> None:
    with pytest.raises(UsageError, match="has no snapshot 's9'; it has 's0', 's1'"):
        vmstate(image, "s9")


def test_a_name_that_is_no_text_is_escaped(image: Path) -> None:
    start = image.read_bytes().index(b"1s0", TABLE)
    patch(image, start + 1, b"\xff")
    assert snapshots(image)[0].name == "\\xff0"
    assert vmstate(image, "\\xff0").startswith(b"QEVM first")


@pytest.mark.parametrize(
    ("offset", "data", "words"),
    [
        (0, b"QFI\xfa", "no qcow2 image"),
        (4, struct.pack(">I", 1), "version 1"),
        (20, struct.pack(">I", 8), r"cluster size is 2\*\*8"),
        (20, struct.pack(">I", 22), r"cluster size is 2\*\*22"),
        (32, struct.pack(">I", 2), "encrypted"),
        (72, u64(4), "in another file"),
        (72, u64(1 << 40), "not known"),
        (60, struct.pack(">I", 65_537), "claims 65537 snapshots"),
        (60, struct.pack(">I", 65_536), "damaged"),
        (64, u64(0), "snapshot table lies at 0x0"),
        (64, u64(TABLE + 8), "snapshot table lies at"),
        (64, u64(1 << 63), "snapshot table would end"),
        (TABLE, u64(L1 + 8), "L1 table lies at"),
        (TABLE, u64(1 << 40), "L1 table would end"),
        (TABLE + 8, struct.pack(">I", 1), "does not reach"),
        (TABLE + 8, struct.pack(">I", 0xFFFF_FFFF), "does not reach"),
        (TABLE + 36, struct.pack(">I", 1025), "1025 bytes of extra data"),
        (TABLE + 12, b"\xff\xff", "no snapshot 's0'"),
        (TABLE + 40, u64(1 << 29), "is said to hold 536870912 bytes"),
        (TABLE + 40, u64(0), "no VM state"),
        (TABLE + 48, u64(1 << 62), "does not reach"),
        (L1 + 8, u64(L2 + 512), "L2 table lies at"),
        (L1 + 8, u64(1 << 50), "L2 table would end"),
        (L2, u64(1 << 62 | L2), "compressed"),
        (L2, u64(1 << 50), "a cluster lies at"),
        (L2, u64(L2 + 512), "a cluster lies at"),
    ],
)
def test_an_image_that_lies_is_refused_with_the_reason(
    offset: int, data: bytes, words: str, image: Path
) -> None:
    patch(image, offset, data)
    with pytest.raises(UsageError, match=words):
        snapshots(image)
        vmstate(image, "s0")
        vmstate(image, "s1")


def test_a_divided_cluster_must_be_large_enough(image: Path) -> None:
    patch(image, 72, u64(16))
    patch(image, 20, struct.pack(">I", 13))
    with pytest.raises(UsageError, match="too small to be divided"):
        snapshots(image)


def test_more_vm_state_than_a_seed_can_have_is_refused(image: Path) -> None:
    os.truncate(image, 4 << 30)
    patch(image, TABLE + 40, u64(2 << 30))
    with pytest.raises(UsageError, match="2048 MiB of VM state, more than 1024"):
        vmstate(image, "s0")


def test_a_snapshot_table_longer_than_qemu_takes_is_refused(image: Path) -> None:
    id_size, name_size, count = 0xFFFF, 0xFFFF, 1000
    os.truncate(image, 256 << 20)
    entry = ENTRY.pack(L1, 2, id_size, name_size, 0, 0, 0, 0, 0)
    length = (len(entry) + id_size + name_size + 7) // 8 * 8
    start = 16 * CLUSTER
    for number in range(count):
        patch(image, start + number * length, entry)
    patch(image, 60, struct.pack(">I", count) + u64(start))
    with pytest.raises(UsageError, match="longer than QEMU takes"):
        snapshots(image)
    patch(image, 60, struct.pack(">I", 400))
    assert len(snapshots(image)) == 400


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pipe", "short", "empty", "missing", ".", "a\0b"):
        for use in (snapshots, Image.open):
            with pytest.raises(UsageError):
                use(tmp_path / name)


def test_an_image_cut_off_anywhere_is_refused_or_gives_what_it_has(image: Path) -> None:
    whole = image.read_bytes()
    expected = {name: vmstate(image, name) for name in ("s0", "s1")}
    for end in (0, 3, 71, 72, 103, 104, TABLE, TABLE + 39, TABLE + 70, L1 + 15, L2 + 7, -1):
        image.write_bytes(whole[:end])
        with pytest.raises(UsageError):
            assert vmstate(image, "s0") == expected["s0"]
            vmstate(image, "s1")


FIELDS = [
    (start, start + length)
    for start, length in ((0, 104), (TABLE, 140), (L1, 16), (L2, 16), (SECOND_L2, 24))
]
TEMPTING = [0, 1, 2, 9, 16, 40, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 30, 1 << 62, (1 << 63) - 1]

changes = st.lists(
    st.tuples(
        st.sampled_from(FIELDS).flatmap(lambda field: st.integers(field[0], field[1] - 1)),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(
            st.sampled_from(TEMPTING),
            st.integers(0, 14).map(lambda number: number * CLUSTER),
            st.integers(0, (1 << 64) - 1),
        ),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file to write hostile images to, and a good one."""
    folder = tmp_path_factory.mktemp("hostile")
    with Image.create(folder / "good", TWO) as made:
        made.write("s1", b"QEVM" * 20_000)
    return folder / "image", (folder / "good").read_bytes()


@given(changes=changes, end=st.one_of(st.none(), st.integers(0, 12 * CLUSTER)))
@example(changes=[(20, 4, 9), (72, 8, 16)], end=None)
@example(changes=[(TABLE + 40, 8, 1 << 19), (L2, 8, 0)], end=None)
@settings(max_examples=300, deadline=None)
def test_whatever_an_image_says_it_is_read_or_refused_in_little_memory(
    changes: list[tuple[int, int, int]], end: int | None, hostile: tuple[Path, bytes]
) -> None:
    path, good = hostile
    data = bytearray(good)
    for offset, width, value in changes:
        data[offset : offset + width] = (value & (1 << 8 * width) - 1).to_bytes(width)
    path.write_bytes(data[:end])
    known: tuple[Snapshot, ...] = ()
    tracemalloc.start()
    try:
        with contextlib.suppress(UsageError):
            known = snapshots(path)
        for snapshot in known:
            with contextlib.suppress(UsageError):
                assert len(vmstate(path, snapshot.name)) <= len(data)
        with contextlib.suppress(UsageError), Image.open(path) as opened:
            for slot in opened.slots.values():
                assert slot.offset + slot.capacity <= len(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(good) + (1 << 20)


# -- QEMU ---------------------------------------------------------------------------------------

Monitor = Callable[[str], Awaitable[str]]


@pytest.fixture
def qemu_img() -> Callable[..., None]:
    """Run qemu-img, which must be content."""
    found = shutil.which("qemu-img")
    if found is None:
        reason = "qemu-img is not installed; install qemu-utils"
        if os.environ.get("CI", "").lower() in {"", "0", "false"}:
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)

    def run(*arguments: str | Path) -> None:
        done = subprocess.run(
            [found, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def monitor(qemu: QEMUProcess) -> Monitor:
    async def say(line: str) -> str:
        arguments: dict[str, Any] = {"command-line": line}
        answer = await qemu.execute("human-monitor-command", **arguments)
        assert isinstance(answer, str)
        return answer

    return say


def with_image(binary: str, machine: str, path: Path) -> MachineSpec:
    return MachineSpec(binary, machine, extra=blockdev(str(path)))


def saved_by_qemu(binary: str, machine: str, path: Path) -> bytes:
    """Have QEMU save its state in an image, and read that."""

    async def save() -> None:
        async with running(with_image(binary, machine, path)) as qemu:
            assert await monitor(qemu)("savevm made") == ""

    asyncio.run(save())
    return vmstate(path, "made")


def accepted_by_qemu(binary: str, machine: str, path: Path, stream: bytes) -> bool:
    """Have a fresh QEMU load a stream from an image of ours."""

    async def load() -> bool:
        async with running(with_image(binary, machine, path)) as qemu:
            return await monitor(qemu)("loadvm s0") == ""

    with Image.create(path, [("s0", len(stream))]) as image:
        image.write("s0", stream)
        return asyncio.run(load())


@pytest.mark.qemu
@pytest.mark.parametrize("machine", ["none", "microvm", "pc"])
def test_qemu_loads_what_was_written_last(
    machine: str, qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "an image, with a comma"

    async def use(image: Image, stream: bytes) -> None:
        async with running(with_image(qemu_binary, machine, path)) as qemu:
            say = monitor(qemu)
            listed = await say("info snapshots")
            assert [f" {name} " in listed for name in ("s0", "s1", "s2")] == [True, True, False]
            image.write("s0", stream)
            assert await say("loadvm s0") == ""
            image.write("s0", b"garbage")
            assert "Not a migration stream" in await say("loadvm s0")
            image.write("s0", stream)
            assert await say("loadvm s0") == ""
            assert "Not a migration stream" in await say("loadvm s1")
            image.write("s1", stream)
            assert await say("loadvm s1") == ""
            assert await say("loadvm s0") == ""

            assert await say("savevm other") == ""
            other = vmstate(path, "other")
            assert other.startswith(b"QEVM")
            assert image.read("s0") == stream.ljust(image.slots["s0"].capacity, b"\0")
            assert vmstate(path, "s1") == image.read("s1")
            image.write("s1", other)
            image.write("s0", b"")
            assert await say("loadvm s1") == ""
            assert await say("loadvm other") == ""
            assert "Not a migration stream" in await say("loadvm s0")
            assert vmstate(path, "other") == other
            assert await say("delvm other") == ""
            assert await say("loadvm s1") == ""
            assert image.read("s1") == other.ljust(image.slots["s1"].capacity, b"\0")

    stream = asyncio.run(capture(MachineSpec(qemu_binary, machine)))
    # A slot without a cluster to spare: QEMU has to read its last one.
    with Image.create(path, [("s0", len(stream)), ("s1", 1 << 20)]) as image:
        qemu_img("check", path)
        asyncio.run(use(image, stream))
        slots = image.slots
    qemu_img("check", path)
    with Image.open(path) as opened:
        assert opened.slots == slots


@pytest.mark.qemu
def test_qemu_img_finds_no_fault_in_the_largest_image(
    qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "image"
    slots = [(f"s{number}", CAPACITY_MAX) for number in range(SLOTS_MAX)]
    Image.create(path, slots, disk_size=DISK_SIZE_MAX).close()
    qemu_img("check", path)


@pytest.mark.qemu
def test_an_image_that_qemu_has_used_is_restored(
    qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "image"
    with Image.create(path, TWO) as image:
        new = path.read_bytes()
        assert saved_by_qemu(qemu_binary, "none", path).startswith(b"QEVM")
        assert path.read_bytes() != new
        image.restore()
        assert path.read_bytes() == new
        qemu_img("check", path)


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
        "refcount_bits=64",
        "lazy_refcounts=on",
    ],
)
def test_what_qemu_saved_is_read_from_every_kind_of_image(
    options: str, qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "1M")
    stream = saved_by_qemu(qemu_binary, "microvm", path)
    assert accepted_by_qemu(qemu_binary, "microvm", tmp_path / "ours", stream)
    assert not accepted_by_qemu(qemu_binary, "microvm", tmp_path / "cut", stream[:-20_000])


@pytest.mark.qemu
def test_a_disk_that_grew_has_not_moved_an_older_vm_state(
    qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    stream = saved_by_qemu(qemu_binary, "none", path)
    qemu_img("resize", "-q", path, "3G")
    assert stream.startswith(b"QEVM")
    assert vmstate(path, "made") == stream


@pytest.mark.qemu
def test_a_snapshot_without_vm_state_is_listed_and_not_read(
    qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    qemu_img("snapshot", "-c", "disk only", path)
    assert [(each.name, each.vmstate_size) for each in snapshots(path)] == [("disk only", 0)]
    assert snapshots(path)[0].date_s > 0
    with pytest.raises(UsageError, match="no VM state"):
        vmstate(path, "disk only")


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("encrypt.format=luks,encrypt.key-secret=key", "encrypted"),
        ("data_file={folder}/data", "in another file"),
    ],
)
def test_what_is_not_followed_is_refused(
    options: str, words: str, qemu_binary: str, qemu_img: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    qemu_img(
        "create", "-q", "--object", "secret,id=key,data=abc", "-f", "qcow2",
        "-o", options.format(folder=tmp_path), path, "1M",
    )  # fmt: skip
    with pytest.raises(UsageError, match=words):
        snapshots(path)
