"""Disks that fail by plan: what each fault of each operation does, and what is recorded."""

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from loadfuzz.errors import UsageError
from loadfuzz.faults.kinds import KINDS, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, Place, fault_of
from loadfuzz.faults.steps import (
    InjectedCancelError,
    InjectedKillError,
    SteppingSource,
    Steps,
)
from loadfuzz.faults.storage import (
    OPERATIONS,
    FaultyDisk,
    Operation,
    StorageFaults,
    check_storage,
    faults_on,
)
from savevm.qemufile import ChunkSource
from savevm.snapshot_info import SnapshotInfo

KIB = 1 << 10


def disk(name: str = "hd0") -> FaultyDisk:
    """A disk with a snapshot of other contents, and a write under way."""
    device = FaultyDisk(name, 64 * KIB)
    device.write(0, b"then")
    device.save_vmstate(b"state", 0)
    device.snapshot_create(SnapshotInfo(name="s", vm_state_size=5))
    device.write(0, b"now ")
    device.submit_write(4, b"late")
    return device


def plan(*faults: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, faults)))


DOING: dict[str, Callable[[FaultyDisk], object]] = {
    "read": lambda device: device.read(0, 4),
    "write": lambda device: device.write(0, b"more"),
    "drain": lambda device: device.drain(),
    "flush": lambda device: device.flush(),
    "read-vmstate": lambda device: device.load_vmstate(0, 5),
    "write-vmstate": lambda device: device.save_vmstate(b"STATE", 0),
    "list": lambda device: device.snapshot_list(),
    "create": lambda device: device.snapshot_create(SnapshotInfo(name="t")),
    "goto": lambda device: device.snapshot_goto("s"),
    "delete": lambda device: device.snapshot_delete(None, "s"),
    "restore": lambda device: device.restore(FaultyDisk("empty", 64 * KIB).checkpoint()),
}


# -- which operations there are ------------------------------------------------------------


def test_every_operation_is_tried_here_and_has_its_words() -> None:
    assert set(DOING) == set(OPERATIONS)
    for row in OPERATIONS.values():
        assert row.does
        assert bool(row.torn) == (FaultKind.DISK_TORN in row.kinds)
        assert all(KINDS[kind].layer is Layer.STORAGE for kind in row.kinds)


def test_every_kind_of_storage_goes_with_some_operation() -> None:
    known = {kind for row in OPERATIONS.values() for kind in row.kinds}
    assert known == {kind for kind, row in KINDS.items() if row.layer is Layer.STORAGE}


@pytest.mark.parametrize("place", ["disk1/chew", "goto", "disk1/", "/goto"])
def test_a_place_that_is_no_operation_is_refused_with_those_there_are(place: str) -> None:
    wrong = FaultPlan((Fault.of(FaultKind.DISK_EIO, Place(PlaceKind.DISK, 0, place)),))
    with pytest.raises(UsageError, match="write-vmstate, list, create, goto, delete, restore"):
        check_storage(wrong)
    with pytest.raises(UsageError), faults_on([], wrong):
        pass


def test_a_disk_may_have_a_slash_in_its_name() -> None:
    device = disk("bus/hd0")
    with (
        faults_on([device], plan("disk-eio@disk:bus/hd0/flush#0")),
        pytest.raises(OSError, match="Input/output error"),
    ):
        device.flush()


# -- what a fault does -------------------------------------------------------------------------


@pytest.mark.parametrize("operation", DOING)
@pytest.mark.parametrize(("kind", "code"), [("disk-eio", errno.EIO), ("disk-enospc", errno.ENOSPC)])
def test_an_operation_that_fails_has_done_nothing(operation: str, kind: str, code: int) -> None:
    device = disk()
    before = device.checkpoint()
    with faults_on([device], plan(f"{kind}@disk:hd0/{operation}#0")) as faults:
        with pytest.raises(OSError) as caught:
            DOING[operation](device)
        assert caught.value.errno == code
        assert device.checkpoint() == before
        assert [str(fault) for fault in faults.struck] == [f"{kind}@disk:hd0/{operation}#0"]
        # Each strikes once.
        DOING[operation](device)


@pytest.mark.parametrize("operation", DOING)
def test_without_faults_it_is_a_plain_disk(operation: str) -> None:
    device, other = disk(), disk()
    with faults_on([device]):
        assert DOING[operation](device) == DOING[operation](other)
    assert device.checkpoint() == other.checkpoint()


def torn(operation: str, amount: int) -> FaultyDisk:
    device = disk()
    with faults_on([device], plan(f"disk-torn@disk:hd0/{operation}#0={amount}")) as faults:
        with pytest.raises(OSError) as caught:
            DOING[operation](device)
        assert caught.value.errno == errno.EIO
        assert len(faults.struck) == 1
    return device


def test_a_torn_write_leaves_its_first_bytes() -> None:
    assert torn("write", 3).read(0, 8) == b"mor \0\0\0\0"
    assert torn("write-vmstate", 2).load_vmstate(0, 5) == b"ST\0\0\0"


def test_a_torn_drain_leaves_the_first_bytes_and_all_requests() -> None:
    device = disk()
    device.submit_write(8, b"next")
    with (
        faults_on([device], plan("disk-torn@disk:hd0/drain#0=6")),
        pytest.raises(OSError),
    ):
        device.drain()
    assert device.read(0, 12) == b"now latene\0\0"
    device.drain()
    assert device.read(0, 12) == b"now latenext"


def test_a_torn_snapshot_is_there_although_it_failed() -> None:
    assert [info.name for info in torn("create", 1).snapshot_list()] == ["s", "t"]
    assert [info.name for info in torn("create", 0).snapshot_list()] == ["s"]


def test_a_torn_deletion_has_deleted_although_it_failed() -> None:
    assert torn("delete", 1).snapshot_list() == []
    assert len(torn("delete", 0).snapshot_list()) == 1


def test_a_torn_goto_takes_part_of_the_contents_back() -> None:
    device = torn("goto", 2)
    assert device.read(0, 4) == b"thw "
    assert device.load_vmstate(0, 5) == bytes(5)


def test_a_torn_restore_brings_the_list_back_and_part_of_the_contents() -> None:
    device = torn("restore", 2)
    assert device.snapshot_list() == []
    assert device.read(0, 4) == b"\0\0w "


def test_a_torn_operation_that_would_have_failed_anyway_fails_as_torn() -> None:
    device = disk()
    with faults_on([device], plan("disk-torn@disk:hd0/delete#0")), pytest.raises(OSError) as caught:
        device.snapshot_delete(None, "nothing of that name")
    assert caught.value.errno == errno.EIO


def test_a_torn_flush_fails() -> None:
    assert torn("flush", 1).flushes == 1


def test_a_short_read_gives_less_and_no_error() -> None:
    device = disk()
    device.snapshot_goto("s")
    with faults_on([device], plan("disk-short@disk:hd0/read-vmstate#1=2")):
        assert device.load_vmstate(0, 5) == b"state"
        assert device.load_vmstate(0, 5) == b"st"
        assert device.load_vmstate(2, 3) == b"ate"


def test_a_kind_that_does_not_go_with_an_operation_never_strikes() -> None:
    # Plans are drawn by chance, kind and place apart.
    device = disk()
    words = ["disk-short@disk:hd0/goto#0", "disk-torn@disk:hd0/list#0"]
    with faults_on([device], plan(*words)) as faults:
        device.snapshot_goto("s")
        device.snapshot_list()
    assert faults.struck == []


# -- where it strikes ----------------------------------------------------------------------------


def test_operations_are_counted_by_disk_and_name() -> None:
    first, second = disk("hd0"), disk("hd1")
    with faults_on([first, second], plan("disk-eio@disk:hd1/flush#1")) as faults:
        for device in (first, first, second, first):
            device.flush()
        second.snapshot_list()
        with pytest.raises(OSError):
            second.flush()
        second.flush()
    assert [str(operation) for operation in faults.operations] == [
        "hd0/flush#0", "hd0/flush#1", "hd1/flush#0", "hd0/flush#2", "hd1/list#0", "hd1/flush#1",
        "hd1/flush#2",
    ]  # fmt: skip
    assert faults.steps == 7


def test_operations_inside_operations_count_too() -> None:
    device = disk()
    with faults_on([device]) as faults:
        device.snapshot_delete_by_id_or_name("s")
    # By id first, then by name; each brings the disk to rest.
    assert [str(operation) for operation in faults.operations] == [
        "hd0/delete#0", "hd0/drain#0", "hd0/delete#1", "hd0/drain#1",
    ]  # fmt: skip


def test_every_operation_that_is_recorded_can_be_faulted_at_its_place() -> None:
    device = disk()
    with faults_on([device]) as faults:
        for doing in DOING.values():
            doing(device)
    assert {operation.name for operation in faults.operations} == set(OPERATIONS)
    for operation in faults.operations:
        for kind in operation.faults():
            check_storage(FaultPlan((Fault.of(kind, operation.place),)))
            assert fault_of(str(Fault.of(kind, operation.place))).place == operation.place


def test_only_so_many_operations_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadfuzz.faults.storage.RECORDED_MAX", 2)
    device = disk()
    with faults_on([device], plan("disk-eio@disk:hd0/flush#3")) as faults:
        for _ in range(3):
            device.flush()
        with pytest.raises(OSError):
            device.flush()
    assert faults.operations == [Operation("hd0", "flush", 0), Operation("hd0", "flush", 1)]


def test_a_disk_is_a_plain_one_before_and_behind() -> None:
    device = disk()
    with faults_on([device], plan("disk-eio@disk:hd0/flush#0")) as faults:
        pass
    device.flush()
    assert (faults.struck, faults.operations) == ([], [])


def test_the_same_plan_gives_the_same_record() -> None:
    def record() -> list[str]:
        device = disk()
        with faults_on([device], plan("disk-torn@disk:hd0/write#1=2")) as faults:
            for doing in DOING.values():
                try:
                    doing(device)
                except OSError as error:
                    return [str(error), *map(str, faults.operations)]
        return []

    assert record() == record()


# -- interruptions ---------------------------------------------------------------------------


def test_a_cancelled_step_has_no_effect_and_the_next_one_has() -> None:
    device = disk()
    with faults_on([device], plan("cancel@step:1")) as faults:
        device.flush()
        with pytest.raises(InjectedCancelError):
            device.snapshot_goto("s")
        assert device.read(0, 4) == b"now "
        device.snapshot_goto("s")
    assert device.read(0, 4) == b"then"
    assert [str(fault) for fault in faults.struck] == ["cancel@step:1"]


def test_nothing_has_any_effect_once_the_process_is_dead() -> None:
    device, other = disk(), disk("hd1")
    before = other.checkpoint()
    with faults_on([device, other], plan("kill@step:1", "disk-torn@disk:hd1/goto#0")) as faults:
        device.flush()
        for one in (device, other):
            for doing in DOING.values():
                with pytest.raises(InjectedKillError):
                    doing(one)
        assert faults.dead
        assert other.checkpoint() == before
    assert [str(operation) for operation in faults.operations] == ["hd0/flush#0", "hd0/read#0"]
    assert [str(fault) for fault in faults.struck] == ["kill@step:1"]


def test_what_a_dead_process_had_under_way_is_lost_and_the_rest_is_not() -> None:
    device = disk()
    with faults_on([device], plan("kill@step:0")), pytest.raises(InjectedKillError):
        device.drain()
    device.drain()
    assert device.read(0, 8) == b"now \0\0\0\0"
    assert len(device.snapshot_list()) == 1


def test_interruptions_and_failures_are_told_in_their_order() -> None:
    device = disk()
    words = ["disk-eio@disk:hd0/flush#1", "cancel@step:0"]
    with faults_on([device], plan(*words)) as faults:
        with pytest.raises(InjectedCancelError):
            device.flush()
        with pytest.raises(OSError):
            device.flush()
    assert [str(fault) for fault in faults.struck] == words[::-1]


def test_a_step_behind_the_last_interrupts_nothing() -> None:
    with faults_on([disk()], plan("kill@step:0")) as faults:
        pass
    assert not faults.dead


def test_reads_of_a_source_are_steps() -> None:
    steps = Steps(plan("cancel@step:1", "kill@step:3", "disk-eio@disk:hd0/flush#0"))
    source = SteppingSource(ChunkSource([b"ab", b"cd", b"ef"]), steps)
    assert bytes(source.read(9)) == b"ab"
    with pytest.raises(InjectedCancelError):
        source.read(9)
    assert bytes(source.read(9)) == b"cd"
    for _ in range(2):
        with pytest.raises(InjectedKillError):
            source.read(9)
    assert (steps.taken, steps.dead) == (4, True)
    assert [fault.kind for fault in steps.struck] == [FaultKind.CANCEL, FaultKind.KILL]
    source.close()


def test_two_interruptions_of_one_step_strike_one_after_the_other() -> None:
    twice = plan("cancel@step:0")
    steps = Steps(replace(twice, faults=twice.faults * 2))
    with pytest.raises(InjectedCancelError):
        steps.step()
    steps.step()
    assert len(steps.struck) == 1


def test_faults_without_a_plan_only_record() -> None:
    faults = StorageFaults(NO_FAULTS)
    assert faults.begin("hd0", "flush") is None
    assert faults.operations == [Operation("hd0", "flush", 0)]
