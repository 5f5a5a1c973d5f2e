"""delvm and info snapshots: which snapshots go, which are shown, and how."""

import errno
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.block import BlockDevice
from savevm.errors import SnapshotError
from savevm.machine import Machine, RunState
from savevm.profile import SEED, STRICT, Profile
from savevm.snapshot import del_existing_snapshots, delvm, info_snapshots, savevm
from savevm.snapshot_info import (
    PartialSnapshots,
    SnapshotInfo,
    SnapshotListing,
    human_readable_size,
)

MIB = 1 << 20
NOW = datetime(2015, 6, 30, 12, 34, 56, tzinfo=UTC)


class FailingDisk(BlockDevice):
    fails = False
    fails_to_delete = False

    def snapshot_delete(self, id_str: str | None, name: str | None) -> None:
        if self.fails or self.fails_to_delete:
            raise OSError(errno.EIO, "Failed to remove snapshot from snapshot list")
        super().snapshot_delete(id_str, name)

    def snapshot_list(self) -> list[SnapshotInfo]:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        return super().snapshot_list()


def disk(name: str = "hd0") -> FailingDisk:
    return FailingDisk(name, MIB)


def machine_with(*disks: BlockDevice, profile: Profile = STRICT) -> Machine:
    machine = Machine(profile=profile)
    machine.block_devices.extend(disks)
    machine.vm_start()
    return machine


NONE_SUITABLE: list[list[BlockDevice]] = [
    [],
    [BlockDevice("hd0", MIB, inserted=False)],
    [BlockDevice("hd0", MIB, read_only=True)],
    [BlockDevice("hd0", MIB, internal_snapshots=False)],
]

# -- delvm ------------------------------------------------------------------------------


@pytest.mark.parametrize("disks", NONE_SUITABLE)
def test_nothing_is_deleted_where_no_disk_has_snapshots(disks: list[BlockDevice]) -> None:
    with pytest.raises(SnapshotError, match=r"^No block device supports snapshots$") as caught:
        delvm(machine_with(*disks), "s")
    assert caught.value.errno == errno.ENOTSUP


def test_a_snapshot_goes_from_every_disk_and_the_guest_runs_on() -> None:
    disks = [disk(), disk("hd1")]
    machine = machine_with(*disks)
    for name in ("s", "t"):
        savevm(machine, name, now=NOW)
    assert delvm(machine, "s") == []
    assert [[info.name for info in device.snapshot_list()] for device in disks] == [["t"], ["t"]]
    assert delvm(machine, "2") == []
    assert [device.snapshot_list() for device in disks] == [[], []]
    assert machine.runstate is RunState.RUNNING


def test_in_the_seed_deleting_goes_on_behind_a_disk_that_cannot() -> None:
    disks = [disk("hd0"), disk("hd1"), disk("hd2")]
    machine = machine_with(*disks, profile=SEED)
    savevm(machine, "s", now=NOW)
    disks[0].snapshot_delete_by_id_or_name("s")
    disks[1].fails = True
    assert delvm(machine, "s") == [
        "Error while deleting snapshot on device 'hd0': Can't find the snapshot",
        "Error while deleting snapshot on device 'hd1': "
        "Failed to remove snapshot from snapshot list",
    ]
    assert disks[2].snapshot_list() == []


def test_deleting_is_taken_back_where_a_disk_cannot() -> None:
    disks = [disk("hd0"), disk("hd1"), disk("hd2")]
    machine = machine_with(*disks)
    savevm(machine, "s", now=NOW)
    before = [device.checkpoint() for device in disks]
    disks[1].fails_to_delete = True
    assert delvm(machine, "s") == [
        "Error while deleting snapshot on device 'hd1': "
        "Failed to remove snapshot from snapshot list",
    ]
    assert [device.checkpoint() for device in disks] == before


def test_nothing_is_deleted_where_a_list_cannot_be_read() -> None:
    disks = [disk("hd0"), disk("hd1")]
    machine = machine_with(*disks)
    savevm(machine, "s", now=NOW)
    disks[1].fails = True
    text = r"^Error while listing snapshots on device 'hd1': Input/output error$"
    with pytest.raises(SnapshotError, match=text) as caught:
        delvm(machine, "s")
    assert caught.value.errno == errno.EIO
    assert len(disks[0].snapshot_list()) == 1


def test_what_only_some_disks_have_is_deleted_there() -> None:
    disks = [disk("hd0"), disk("hd1")]
    machine = machine_with(*disks)
    savevm(machine, "s", now=NOW)
    disks[0].snapshot_delete_by_id_or_name("s")
    assert delvm(machine, "s") == []
    assert disks[1].snapshot_list() == []
    assert delvm(machine, "s") == [
        "Error while deleting snapshot on device 'hd0': Can't find the snapshot",
        "Error while deleting snapshot on device 'hd1': Can't find the snapshot",
    ]


def test_an_id_does_not_delete_what_another_disk_calls_so() -> None:
    for profile, left in ((STRICT, ["1"]), (SEED, [])):
        disks = [disk("hd0"), disk("hd1")]
        machine = machine_with(*disks, profile=profile)
        disks[0].snapshot_create(SnapshotInfo("1", "s"))
        disks[1].snapshot_create(SnapshotInfo("7", "1"))
        assert delvm(machine, "1") == []
        assert [info.name for info in disks[1].snapshot_list()] == left


def test_drives_without_snapshots_are_passed_over() -> None:
    machine = machine_with(BlockDevice("cd0", MIB, inserted=False), disk())
    savevm(machine, "s", now=NOW)
    assert delvm(machine, "s") == []


def test_deleting_what_exists_passes_over_disks_without_it() -> None:
    first, second = disk(), disk("hd1")
    second.snapshot_create(SnapshotInfo(name="s"))
    del_existing_snapshots(machine_with(first, second), "s")
    assert second.snapshot_list() == []


# -- info snapshots ------------------------------------------------------------------------


@pytest.mark.parametrize("disks", NONE_SUITABLE)
def test_nothing_is_listed_where_no_disk_has_snapshots(disks: list[BlockDevice]) -> None:
    text = r"^No available block device supports snapshots$"
    with pytest.raises(SnapshotError, match=text) as caught:
        info_snapshots(machine_with(*disks))
    assert caught.value.errno == errno.ENOTSUP


def test_a_list_that_cannot_be_read_is_an_error() -> None:
    device = disk()
    device.fails = True
    with pytest.raises(SnapshotError, match=r"^bdrv_snapshot_list: error -5$") as caught:
        info_snapshots(machine_with(device))
    assert caught.value.errno == errno.EIO
    device.fails, other = False, disk("hd1")
    other.fails = True
    device.snapshot_create(SnapshotInfo(name="s"))
    with pytest.raises(SnapshotError, match="device 'hd1'"):
        info_snapshots(machine_with(device, other))
    # For the seed that disk has none.
    listing = info_snapshots(machine_with(device, other, profile=SEED))
    assert [info.name for info in listing.incomplete] == ["s"]


def test_no_snapshot_at_all() -> None:
    listing = info_snapshots(machine_with(disk()))
    assert listing == SnapshotListing(())
    assert listing.text() == "There is no snapshot available."


def test_a_snapshot_that_one_disk_lacks_is_not_shown() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second, profile=SEED)
    made = [savevm(machine, name, now=NOW) for name in ("a", "b")]
    second.snapshot_delete_by_id_or_name("a")
    listing = info_snapshots(machine)
    assert listing.snapshots == (made[1],)
    assert listing.incomplete == (made[0],)
    assert listing.partial == ()
    second.snapshot_delete_by_id_or_name("b")
    assert info_snapshots(machine).text() == "There is no suitable snapshot available"


def test_a_strict_list_shows_what_only_some_disks_have() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second)
    a, b, c = (savevm(machine, name, now=NOW) for name in ("a", "b", "c"))
    second.snapshot_delete_by_id_or_name("a")
    first.snapshot_delete_by_id_or_name("c")
    listing = info_snapshots(machine)
    assert listing == SnapshotListing(
        (b,), (a,),
        (
            PartialSnapshots("hd0", (a,)),
            PartialSnapshots("hd1", (replace(c, vm_state_size=0),)),
        ),
    )  # fmt: skip
    lines = listing.text().split("\n")
    assert [line[:32].rstrip() for line in lines if not line.startswith("ID")] == [
        "2         b",
        "",
        "List of partial (non-loadable) s",
        "1         a",
        "",
        "List of partial (non-loadable) s",
        "3         c",
    ]
    assert lines[3] == "List of partial (non-loadable) snapshots on 'hd0':"


def test_snapshots_of_two_moments_are_not_one() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second)
    made = savevm(machine, "s", now=NOW)
    kept = second.checkpoint()
    delvm(machine, "s")
    again = savevm(machine, "s", now=NOW + timedelta(seconds=1))
    second.restore(kept)
    assert (made.id_str, made.name) == (again.id_str, again.name)
    assert info_snapshots(machine).snapshots == ()
    machine.profile = SEED
    assert info_snapshots(machine).snapshots == (again,)


def test_in_the_seed_another_disk_may_know_the_id_as_a_name() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second, profile=SEED)
    made = savevm(machine, "a", now=NOW)
    second.snapshot_delete_by_id_or_name("a")
    second.snapshot_create(SnapshotInfo(id_str="9", name=made.id_str))
    assert info_snapshots(machine).snapshots == (made,)
    machine.profile = STRICT
    assert info_snapshots(machine).snapshots == ()


def test_a_snapshot_that_only_another_disk_has_is_not_shown_by_the_seed() -> None:
    first, second = disk(), disk("hd1")
    made = second.snapshot_create(SnapshotInfo(name="s"))
    assert info_snapshots(machine_with(first, second, profile=SEED)) == SnapshotListing(())
    listing = info_snapshots(machine_with(first, second))
    assert listing.partial == (PartialSnapshots("hd1", (made,)),)
    assert listing.text().startswith("There is no suitable snapshot available\n\nList of partial")


def test_the_table_has_the_columns_of_qemu() -> None:
    listing = SnapshotListing(
        (
            SnapshotInfo("1", "before-update", 0, 0, 0, 0),
            SnapshotInfo("12", "vm-20150630123456", 3_145_728, int(NOW.timestamp()), 0, 3_723_004),
            SnapshotInfo("3", "a name longer than its column", 999, 1, 0, 360_000_999_999_999),
        )
    )
    assert listing.text().split("\n") == [
        "ID        TAG                 VM SIZE                DATE       VM CLOCK",
        "1         before-update             0 1970-01-01 00:00:00   00:00:00.000",
        "12        vm-20150630123456      3.0M 2015-06-30 12:34:56   00:00:00.003",
        "3         a name longer than its column    999 1970-01-01 00:00:01  100:00:00.999",
    ]


def test_dates_are_shown_in_the_zone_that_is_asked_for() -> None:
    listing = SnapshotListing((SnapshotInfo("1", "s", 1, int(NOW.timestamp())),))
    assert "2015-06-30 17:04:56" in listing.text(timezone(timedelta(hours=4, minutes=30)))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (10 * 1024 - 1, "10.0K"),
        (10 * 1024, "10K"),
        (1000 * 1024 - 1, "1000K"),
        (1000 * 1024, "1.0M"),
        (1000 * MIB, "1.0G"),
        (5 << 40, "5.0T"),
        (10 << 40, "10T"),
        (2000 << 40, "2000T"),
    ],
)
def test_sizes_change_their_unit_where_qemu_does(size: int, text: str) -> None:
    assert human_readable_size(size) == text


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_reads_back_within_its_rounding(size: int) -> None:
    text = human_readable_size(size)
    unit = 1024 ** (" KMGT".index(text[-1]) if text[-1] in "KMGT" else 0)
    # Exact arithmetic: a float's own rounding may lie beyond a bound that is met exactly.
    value = Fraction(text.rstrip("KMGT")) * unit
    rounding = Fraction(unit, 2) if "." not in text else Fraction(unit, 20)
    assert abs(value - size) <= rounding
