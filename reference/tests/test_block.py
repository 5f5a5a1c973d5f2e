"""The simulated disk: areas, snapshots, refusals; and a QEMUFile over its VM state."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.block import MAX_IN_FLIGHT, BlockDevice
from savevm.clusters import CLUSTER_SIZE, SparseBytes
from savevm.errors import LoadError
from savevm.profile import SEED
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.qemufile.blockfile import BlockSink, BlockSource
from savevm.snapshot_info import SnapshotInfo

MIB = 1 << 20
WRITES = st.lists(st.tuples(st.integers(0, 3 * CLUSTER_SIZE), st.binary(max_size=40)), max_size=12)


def disk(**options: bool) -> BlockDevice:
    return BlockDevice("ide0-hd0", MIB, **options)


def refusal(error: pytest.ExceptionInfo[OSError]) -> int | None:
    return error.value.errno


# -- sparse bytes --------------------------------------------------------------------


@given(WRITES)
def test_sparse_bytes_read_like_a_bytearray_of_zeros(writes: list[tuple[int, bytes]]) -> None:
    sparse, plain = SparseBytes(), bytearray(4 * CLUSTER_SIZE)
    for offset, data in writes:
        sparse.write(offset, data)
        plain[offset : offset + len(data)] = data
    assert sparse.read(0, len(plain)) == plain
    assert sparse.end == max((offset + len(data) for offset, data in writes if data), default=0)


@given(WRITES, WRITES)
def test_a_copy_keeps_its_contents_whatever_happens_to_the_original(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]]
) -> None:
    original = SparseBytes()
    for offset, data in before:
        original.write(offset, data)
    contents, end = original.read(0, 4 * CLUSTER_SIZE), original.end
    copy = original.copy()
    for offset, data in after:
        original.write(offset, data)
    assert copy.read(0, 4 * CLUSTER_SIZE) == contents
    assert copy.end == end


def test_only_written_clusters_take_memory() -> None:
    sparse = SparseBytes()
    sparse.write(1 << 40, b"x")
    assert sparse.allocated() == CLUSTER_SIZE
    assert sparse.end == (1 << 40) + 1


def test_discarding_takes_whole_clusters() -> None:
    sparse = SparseBytes()
    sparse.write(0, bytes([1]) * (3 * CLUSTER_SIZE))
    sparse.discard_clusters(CLUSTER_SIZE + 1)
    assert sparse.read(0, 2 * CLUSTER_SIZE) == bytes(2 * CLUSTER_SIZE)
    assert sparse.read(2 * CLUSTER_SIZE, 1) == b"\x01"
    assert sparse != SparseBytes()


def test_discarding_everything_leaves_an_empty_area() -> None:
    sparse = SparseBytes()
    sparse.write(0, b"x")
    sparse.discard_clusters(1)
    assert sparse == SparseBytes()


def test_sparse_bytes_are_not_equal_to_anything_else() -> None:
    assert SparseBytes() != b""


# -- the guest's disk -------------------------------------------------------------------


def test_what_was_written_is_read_back_and_the_rest_is_zero() -> None:
    device = disk()
    device.write(MIB - 2, b"ab")
    assert device.read(MIB - 4, 4) == b"\0\0ab"


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, MIB + 1), (MIB, 1), (0, -1)])
def test_a_request_past_the_disk_is_an_io_error(offset: int, size: int) -> None:
    with pytest.raises(OSError) as caught:
        disk().read(offset, size)
    assert refusal(caught) == errno.EIO


def test_an_empty_drive_neither_reads_nor_writes() -> None:
    device = disk(inserted=False)
    for operation in (lambda: device.read(0, 1), lambda: device.write(0, b"x")):
        with pytest.raises(OSError) as caught:
            operation()
        assert refusal(caught) == errno.ENOMEDIUM


def test_a_read_only_disk_refuses_writes() -> None:
    device = disk(read_only=True)
    writes = (device.write, device.submit_write, lambda at, data: device.save_vmstate(data, at))
    for operation in writes:
        with pytest.raises(OSError) as caught:
            operation(0, b"x")
        assert refusal(caught) == errno.EPERM


def test_a_submitted_write_lands_when_the_disk_is_drained() -> None:
    device = disk()
    device.submit_write(0, b"late")
    assert device.read(0, 4) == bytes(4)
    device.drain()
    assert device.read(0, 4) == b"late"


def test_a_full_queue_drains_by_itself() -> None:
    device = disk()
    for number in range(MAX_IN_FLIGHT + 1):
        device.submit_write(number, b"x")
    assert device.read(0, MAX_IN_FLIGHT + 1) == b"x" * MAX_IN_FLIGHT + b"\0"


def test_a_bad_submitted_write_is_refused_at_once() -> None:
    with pytest.raises(OSError):
        disk().submit_write(MIB, b"x")


# -- the VM state area --------------------------------------------------------------------


def test_vm_state_does_not_show_on_the_disk() -> None:
    device = disk()
    device.writev_vmstate((b"ab", bytearray(b"cd")), 3)
    assert device.load_vmstate(0, 8) == b"\0\0\0abcd\0"
    assert device.read(0, 16) == bytes(16)


def test_vm_state_past_its_end_reads_as_zeros_like_qcow2() -> None:
    device = disk()
    device.save_vmstate(b"x", 0)
    assert device.load_vmstate(0, 4) == b"x\0\0\0"
    assert device.load_vmstate(1 << 30, 4) == bytes(4)


def test_an_area_with_an_end_reads_short_and_then_nothing() -> None:
    device = disk(zeros_past_end=False)
    device.save_vmstate(b"xy", 0)
    assert device.load_vmstate(1, 4) == b"y"
    assert device.load_vmstate(2, 4) == b""
    assert device.load_vmstate(9, 4) == b""


def test_a_full_area_keeps_what_fitted() -> None:
    device = BlockDevice("ide0-hd0", MIB, vmstate_limit=4)
    device.save_vmstate(b"abc", 0)
    with pytest.raises(OSError) as caught:
        device.writev_vmstate((b"def",), 3)
    assert refusal(caught) == errno.ENOSPC
    assert device.load_vmstate(0, 6) == b"abcd\0\0"
    assert device.vmstate_end() == 4


@pytest.mark.parametrize(
    ("options", "code"),
    [({"inserted": False}, errno.ENOMEDIUM), ({"internal_snapshots": False}, errno.ENOTSUP)],
)
def test_a_disk_without_an_area_says_why(options: dict[str, bool], code: int) -> None:
    device = disk(**options)
    for operation in (lambda: device.load_vmstate(0, 1), lambda: device.save_vmstate(b"x", 0)):
        with pytest.raises(OSError) as caught:
            operation()
        assert refusal(caught) == code


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(OSError) as caught:
        disk().load_vmstate(-1, 1)
    assert refusal(caught) == errno.EINVAL


# -- snapshots -------------------------------------------------------------------------------


def test_only_an_inserted_writable_disk_of_the_right_format_can_be_snapshotted() -> None:
    assert disk().can_snapshot()
    assert not disk(inserted=False).can_snapshot()
    assert not disk(read_only=True).can_snapshot()
    assert not disk(internal_snapshots=False).can_snapshot()


def test_going_to_a_snapshot_brings_disk_and_vm_state_back() -> None:
    device = disk()
    device.write(0, b"old")
    device.save_vmstate(b"state", 0)
    device.snapshot_create(SnapshotInfo(name="s", vm_state_size=5))
    device.write(0, b"new")
    device.snapshot_goto("s")
    assert device.read(0, 3) == b"old"
    assert device.load_vmstate(0, 5) == b"state"


def test_a_snapshot_takes_the_vm_state_out_of_the_active_image() -> None:
    device = disk()
    device.save_vmstate(b"state", 0)
    device.snapshot_create(SnapshotInfo(name="s", vm_state_size=5))
    assert device.load_vmstate(0, 5) == bytes(5)
    assert device.vmstate_end() == 0


def test_a_snapshot_that_was_gone_to_can_be_gone_to_again() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(name="s"))
    device.snapshot_goto("s")
    device.write(0, b"x")
    device.snapshot_goto("s")
    assert device.read(0, 1) == b"\0"


def test_ids_count_on_from_the_greatest() -> None:
    device = disk()
    made = [device.snapshot_create(SnapshotInfo(name=name)) for name in "abc"]
    assert [info.id_str for info in made] == ["1", "2", "3"]
    device.snapshot_delete_by_id_or_name("2")
    assert device.snapshot_create(SnapshotInfo(name="d")).id_str == "4"
    device.snapshot_create(SnapshotInfo(id_str="12nd", name="e"))
    device.snapshot_create(SnapshotInfo(id_str="x", name="f"))
    assert device.snapshot_create(SnapshotInfo(name="g")).id_str == "13"


def test_an_id_that_is_taken_is_refused() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(id_str="7", name="a"))
    with pytest.raises(OSError) as caught:
        device.snapshot_create(SnapshotInfo(id_str="7", name="b"))
    assert refusal(caught) == errno.EEXIST
    assert len(device.snapshot_list()) == 1


def test_the_first_snapshot_of_that_id_or_name_is_found() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(name="2"))  # id 1
    device.snapshot_create(SnapshotInfo(name="x"))  # id 2
    assert device.snapshot_find("2").id_str == "1"
    assert device.snapshot_find("x").id_str == "2"
    with pytest.raises(OSError) as caught:
        device.snapshot_find("y")
    assert refusal(caught) == errno.ENOENT


def test_going_and_deleting_prefer_the_id_to_the_name() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(name="2"))
    device.write(0, b"x")
    device.snapshot_create(SnapshotInfo(name="x"))
    device.write(0, b"y")
    device.snapshot_goto("2")
    assert device.read(0, 1) == b"x"
    device.snapshot_delete_by_id_or_name("2")
    assert [info.name for info in device.snapshot_list()] == ["2"]
    device.snapshot_delete_by_id_or_name("2")
    assert device.snapshot_list() == []


def test_deleting_needs_id_and_name_to_agree_when_both_are_given() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(name="a"))
    with pytest.raises(OSError, match="Can't find the snapshot"):
        device.snapshot_delete("1", "b")
    device.snapshot_delete("1", "a")
    assert device.snapshot_list() == []


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"inserted": False}, errno.ENOMEDIUM, "Device 'ide0-hd0' has no medium"),
        ({"internal_snapshots": False}, errno.ENOTSUP, "does not support feature"),
        ({}, errno.ENOENT, "Can't find the snapshot"),
    ],
)
def test_deleting_says_why_it_cannot(options: dict[str, bool], code: int, text: str) -> None:
    with pytest.raises(OSError, match=text) as caught:
        disk(**options).snapshot_delete_by_id_or_name("s")
    assert refusal(caught) == code


def test_deleting_nothing_in_particular_is_refused() -> None:
    with pytest.raises(OSError) as caught:
        disk().snapshot_delete(None, None)
    assert refusal(caught) == errno.EINVAL


@pytest.mark.parametrize(
    ("options", "code"),
    [({"inserted": False}, errno.ENOMEDIUM), ({"internal_snapshots": False}, errno.ENOTSUP)],
)
def test_a_disk_without_snapshots_says_why(options: dict[str, bool], code: int) -> None:
    device = disk(**options)
    for operation in (
        device.snapshot_list,
        lambda: device.snapshot_create(SnapshotInfo(name="s")),
        lambda: device.snapshot_goto("s"),
    ):
        with pytest.raises(OSError) as caught:
            operation()
        assert refusal(caught) == code
    with pytest.raises(OSError) as caught:
        device.snapshot_find("s")
    assert refusal(caught) == errno.ENOENT


def test_going_to_an_unknown_snapshot_changes_nothing() -> None:
    device = disk()
    device.write(0, b"x")
    before = device.checkpoint()
    with pytest.raises(OSError) as caught:
        device.snapshot_goto("s")
    assert refusal(caught) == errno.ENOENT
    assert device.checkpoint() == before


def test_a_snapshot_of_a_disk_of_another_size_cannot_be_gone_to() -> None:
    device = disk()
    device.snapshot_create(SnapshotInfo(name="s"))
    device.size *= 2
    with pytest.raises(OSError, match="different disk size") as caught:
        device.snapshot_goto("s")
    assert refusal(caught) == errno.ENOTSUP


def test_an_image_holds_so_many_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("savevm.block.MAX_SNAPSHOTS", 2)
    device = disk()
    device.snapshot_create(SnapshotInfo(name="a"))
    device.snapshot_create(SnapshotInfo(name="b"))
    with pytest.raises(OSError) as caught:
        device.snapshot_create(SnapshotInfo(name="c"))
    assert refusal(caught) == errno.EFBIG


def test_a_checkpoint_brings_everything_back() -> None:
    device = disk()
    device.write(0, b"x")
    device.save_vmstate(b"state", 0)
    device.snapshot_create(SnapshotInfo(name="s", vm_state_size=5))
    device.submit_write(0, b"late")
    before = device.checkpoint()
    device.drain()
    device.snapshot_goto("s")
    device.snapshot_delete_by_id_or_name("s")
    device.save_vmstate(b"junk", 9)
    assert device.checkpoint() != before
    device.restore(before)
    assert device.checkpoint() == before


# -- a QEMUFile over it ---------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3000), max_size=30), st.integers(1, 5000))
def test_what_a_file_writes_to_a_disk_it_reads_from_it(pieces: list[bytes], step: int) -> None:
    device = disk()
    writer = QEMUFileWriter(BlockSink(device))
    for piece in pieces:
        writer.put_buffer(piece)
    assert writer.close() == 0
    data = b"".join(pieces)
    reader = QEMUFileReader(BlockSource(device, len(data)))
    got = [reader.get_buffer(min(step, len(data) - at)) for at in range(0, len(data), step)]
    assert b"".join(got) == data
    with pytest.raises(LoadError) as caught:
        reader.get_byte()
    assert caught.value.errno == errno.EIO


class _Dribbling(BlockDevice):
    def load_vmstate(self, position: int, size: int) -> bytes:
        return super().load_vmstate(position, min(size, 7))


def test_a_disk_that_gives_a_few_bytes_at_a_time_gives_the_same_stream() -> None:
    device, data = _Dribbling("hd", MIB), bytes(range(100))
    device.save_vmstate(data, 0)
    assert QEMUFileReader(BlockSource(device, 100)).get_buffer(100) == data


def test_closing_a_file_flushes_the_disk_once() -> None:
    device = disk()
    for file in (QEMUFileWriter(BlockSink(device)), QEMUFileReader(BlockSource(device))):
        before = device.flushes
        file.close()
        file.close()
        assert device.flushes == before + 1
    for end in (BlockSink(device), BlockSource(device)):
        before = device.flushes
        end.close()
        end.close()
        assert device.flushes == before + 1


def test_a_file_without_a_size_reads_zeros_for_ever() -> None:
    device = disk()
    device.save_vmstate(b"x", 0)
    reader = QEMUFileReader(BlockSource(device), profile=SEED)
    assert reader.get_byte() == ord("x")
    assert reader.get_buffer(200_000) == bytes(200_000)
    assert reader.get_error() == 0


def test_a_full_disk_sets_the_error_of_the_file() -> None:
    writer = QEMUFileWriter(BlockSink(BlockDevice("ide0-hd0", MIB, vmstate_limit=10)))
    writer.put_buffer(bytes(11))
    writer.flush()
    assert writer.get_error() == -errno.ENOSPC


class _Failing(BlockDevice):
    def load_vmstate(self, position: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_cannot_be_read_fails_the_load_with_its_errno() -> None:
    reader = QEMUFileReader(BlockSource(_Failing("hd", MIB)))
    with pytest.raises(LoadError) as caught:
        reader.get_be32()
    assert caught.value.errno == errno.EIO


def test_a_disk_that_cannot_be_flushed_fails_the_close() -> None:
    assert QEMUFileWriter(BlockSink(_Failing("hd", MIB))).close() == -errno.ENOSPC
