"""savevm: what it refuses, what it writes to which disk, and who runs afterwards."""

import errno
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from savevm.block import BlockCheckpoint, BlockDevice
from savevm.board import none_machine
from savevm.devices.globalstate import GlobalState
from savevm.errors import SaveError, SnapshotError
from savevm.machine import Machine, RunState
from savevm.profile import SEED, STRICT, Profile
from savevm.registry import SaveVMHandlers
from savevm.save import save_to_bytes
from savevm.snapshot import find_vmstate_bs, info_snapshots, loadvm, savevm
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_undo import NotPutBackError
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

MIB = 1 << 20
NOW = datetime(2015, 6, 30, 12, 34, 56, 789_000, tzinfo=UTC)

CHIP = VMStateDescription("chip", fields=(fields.uint32("value"), fields.buffer("data", 100_000)))


class Chip(State):
    def __init__(self) -> None:
        super().__init__()
        self.value = 0
        self.data = bytearray(100_000)

    def dev_path(self) -> str | None:
        return None

    def reset(self) -> None:
        self.value = 0

    def check_invariants(self) -> list[str]:
        return []

    def step(self) -> None:
        self.value += 1


class FailingDisk(BlockDevice):
    """Operations named in ``fails`` fail with that errno."""

    def __init__(self, name: str, **fails: int) -> None:
        super().__init__(name, MIB)
        self.fails = fails

    def _fail(self, operation: str) -> None:
        code = self.fails.get(operation)
        if code is not None:
            raise OSError(code, "the disk says no")

    def writev_vmstate(self, pieces: object, position: int) -> None:
        if position:
            self._fail("write")
        super().writev_vmstate(pieces, position)  # type: ignore[arg-type]  # passed on as it came

    def drain(self) -> None:
        self._fail("drain")
        super().drain()

    def flush(self) -> None:
        self._fail("flush")
        super().flush()

    def snapshot_list(self) -> list[SnapshotInfo]:
        self._fail("list")
        return super().snapshot_list()

    def snapshot_create(self, info: SnapshotInfo) -> SnapshotInfo:
        self._fail("create")
        return super().snapshot_create(info)

    def snapshot_delete(self, id_str: str | None, name: str | None) -> None:
        self._fail("delete")
        super().snapshot_delete(id_str, name)


def machine_with(*disks: BlockDevice, runstate: RunState = RunState.RUNNING) -> Machine:
    machine = Machine()
    chip = Chip()
    machine.devices["chip"] = chip
    machine.savevm.vmstate_register(None, 0, CHIP, chip)
    machine.block_devices.extend(disks)
    machine.board.runstate = runstate
    machine.clock.now_ns = 3_723_004_000_000
    return machine


def disk(name: str = "hd0", **options: bool) -> BlockDevice:
    return BlockDevice(name, MIB, **options)


def states_of(machine: Machine) -> list[RunState]:
    """Records every run state that the machine enters from now on."""
    seen: list[RunState] = []
    vm_stop, vm_start = machine.vm_stop, machine.vm_start

    def stop(state: RunState) -> None:
        vm_stop(state)
        seen.append(machine.runstate)

    def start() -> None:
        vm_start()
        seen.append(machine.runstate)

    machine.vm_stop, machine.vm_start = stop, start  # type: ignore[method-assign]
    return seen


# -- refusals that touch nothing ------------------------------------------------------

REFUSALS: list[tuple[list[BlockDevice], str]] = [
    ([], "No block device can accept snapshots"),
    ([disk(inserted=False)], "No block device can accept snapshots"),
    ([disk(read_only=True)], "No block device can accept snapshots"),
    (
        [disk(), disk("hd1", internal_snapshots=False)],
        "Device 'hd1' is writable but does not support snapshots.",
    ),
]


@pytest.mark.parametrize(("disks", "text"), REFUSALS)
def test_a_refusal_touches_neither_machine_nor_disks(disks: list[BlockDevice], text: str) -> None:
    machine = machine_with(*disks)
    before, contents = machine.digest(), [device.checkpoint() for device in disks]
    seen = states_of(machine)
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert caught.value.reason == text
    assert caught.value.errno == errno.ENOTSUP
    assert machine.digest() == before
    assert [device.checkpoint() for device in disks] == contents
    assert seen == []


def test_drives_that_are_empty_or_read_only_need_no_snapshots() -> None:
    cdrom = BlockDevice("cd0", MIB, internal_snapshots=False, inserted=False)
    rom = BlockDevice("rom0", MIB, internal_snapshots=False, read_only=True)
    backing = disk("ro1", read_only=True)
    machine = machine_with(cdrom, rom, backing, disk())
    assert savevm(machine, "s", now=NOW).name == "s"
    assert find_vmstate_bs(machine) is machine.block_devices[3]
    assert backing.snapshot_list() == []


# -- what it makes ------------------------------------------------------------------------


def test_the_first_disk_gets_the_state_and_every_disk_a_snapshot() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second)
    machine.suppress_vmdesc = True
    stream = save_to_bytes(machine)
    made = savevm(machine, "s", now=NOW)
    assert made == SnapshotInfo(
        id_str="1",
        name="s",
        vm_state_size=len(stream),
        date_sec=int(NOW.timestamp()),
        date_nsec=789_000_000,
        vm_clock_nsec=3_723_004_000_000,
    )
    assert first.snapshot_list() == [made]
    assert [(info.id_str, info.vm_state_size) for info in second.snapshot_list()] == [("1", 0)]
    first.snapshot_goto("s")
    assert first.load_vmstate(0, len(stream)) == stream


def test_the_state_is_what_a_save_writes_and_is_traced() -> None:
    machine, log = machine_with(disk()), TraceLog()
    savevm(machine, "s", now=NOW, trace=log)
    assert log.named("vmstate_save") == [("chip", "chip")]


def test_without_a_name_the_snapshot_is_called_after_the_date() -> None:
    zone = timezone(timedelta(hours=2))
    machine = machine_with(disk())
    assert savevm(machine, now=NOW.astimezone(zone)).name == "vm-20150630143456"


def test_a_date_without_a_zone_is_utc() -> None:
    machine = machine_with(disk())
    made = savevm(machine, now=NOW.replace(tzinfo=None))
    assert (made.name, made.date_sec) == ("vm-20150630123456", int(NOW.timestamp()))


def test_a_long_name_is_cut_to_what_a_snapshot_holds() -> None:
    assert savevm(machine_with(disk()), "é" * 200, now=NOW).name == "é" * 127


def test_an_old_snapshot_of_the_same_name_is_replaced_and_keeps_its_id() -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second)
    for name in ("a", "s", "z"):
        savevm(machine, name, now=NOW)
    machine.devices["chip"].step()
    later = NOW + timedelta(days=1)
    assert savevm(machine, "s", now=later).id_str == "2"
    for device in (first, second):
        assert [info.id_str for info in device.snapshot_list()] == ["1", "3", "2"]
        assert device.snapshot_find("s").date_sec == int(later.timestamp())


def test_an_old_snapshot_goes_by_its_id_too_and_keeps_its_name() -> None:
    machine = machine_with(disk())
    savevm(machine, "s", now=NOW)
    assert savevm(machine, "1", now=NOW).name == "s"
    assert len(machine.block_devices[0].snapshot_list()) == 1


def test_a_snapshot_that_only_another_disk_has_is_replaced_there() -> None:
    first, second = disk(), disk("hd1")
    second.snapshot_create(SnapshotInfo(name="s"))
    second.snapshot_create(SnapshotInfo(name="t"))
    assert savevm(machine_with(first, second), "s", now=NOW).id_str == "1"
    assert [info.id_str for info in second.snapshot_list()] == ["2", "1"]


# -- who runs afterwards --------------------------------------------------------------------

Failure = Callable[[Machine], None]


def block(machine: Machine) -> None:
    vmsd = VMStateDescription("stubborn", unmigratable=True)
    machine.savevm.vmstate_register(None, 0, vmsd, State())


@pytest.mark.parametrize("runstate", [RunState.RUNNING, RunState.PAUSED, RunState.PRELAUNCH])
def test_the_machine_is_stopped_meanwhile_and_then_as_it_was(runstate: RunState) -> None:
    machine = machine_with(disk(), runstate=runstate)
    seen = states_of(machine)
    savevm(machine, "s", now=NOW)
    assert machine.runstate is runstate
    running = runstate is RunState.RUNNING
    assert seen == ([RunState.SAVE_VM, RunState.RUNNING] if running else [])


@pytest.mark.parametrize("runstate", [RunState.RUNNING, RunState.PAUSED])
@pytest.mark.parametrize(
    ("fails", "text", "code"),
    [
        ({"write": errno.EIO}, "Error while writing VM state: Input/output error", errno.EIO),
        (
            {"write": errno.ENOSPC},
            "Error while writing VM state: No space left on device",
            errno.ENOSPC,
        ),
        (
            {"delete": errno.EIO},
            "Error while deleting snapshot on device 'hd0': the disk says no",
            errno.EIO,
        ),
        ({"create": errno.EFBIG}, "Error while creating snapshot on 'hd0'", errno.EFBIG),
    ],
)
def test_a_save_that_fails_restores_the_run_state(
    fails: dict[str, int], text: str, code: int, runstate: RunState
) -> None:
    device = FailingDisk("hd0")
    machine = machine_with(device, disk("hd1"), runstate=runstate)
    savevm(machine, "s", now=NOW)
    device.fails = fails
    seen = states_of(machine)
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert (caught.value.reason, caught.value.errno) == (text, code)
    assert machine.runstate is runstate
    assert seen == ([RunState.SAVE_VM] + [runstate] if runstate is RunState.RUNNING else [])


def test_a_blocking_device_refuses_with_its_text_after_the_stop() -> None:
    machine = machine_with(disk())
    block(machine)
    seen = states_of(machine)
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert caught.value.reason == "State blocked by non-migratable device 'stubborn'"
    assert isinstance(caught.value.__cause__, SaveError)
    assert seen == [RunState.SAVE_VM, RunState.RUNNING]


def test_stopping_drains_and_flushes_every_disk_and_ignores_flush_errors() -> None:
    broken, good = FailingDisk("hd0", flush=errno.EIO), disk("hd1")
    good.submit_write(0, b"late")
    machine = machine_with(broken, good)
    machine.profile = replace(STRICT, close_errors_ignored=True)
    savevm(machine, "s", now=NOW)
    assert good.flushes == 1
    good.write(0, b"next")
    good.snapshot_goto("s")
    assert good.read(0, 4) == b"late"


# -- what a failure leaves behind --------------------------------------------------------------


@pytest.mark.parametrize(
    "fails",
    [
        {"write": errno.EIO},
        {"flush": errno.EIO},
        {"create": errno.EIO},
        {"delete": errno.EIO},
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_a_save_that_fails_leaves_every_disk_as_it_was(
    fails: dict[str, int], position: int
) -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks)
    savevm(machine, "s", now=NOW)
    before = [device.checkpoint() for device in disks]
    disks[position].fails = fails
    if position == 1 and "write" in fails:
        savevm(machine, "s", now=NOW)  # that disk gets no state
        return
    with pytest.raises(SnapshotError):
        savevm(machine, "s", now=NOW)
    assert [device.checkpoint() for device in disks] == before


def test_in_the_seed_a_save_that_fails_has_lost_the_snapshot_it_was_to_replace() -> None:
    device = FailingDisk("hd0")
    machine = machine_with(device)
    savevm(machine, "s", now=NOW)
    device.fails = {"write": errno.ENOSPC}
    machine.profile = SEED
    with pytest.raises(SnapshotError):
        savevm(machine, "s", now=NOW)
    assert device.snapshot_list() == []


def test_in_the_seed_one_disk_that_refuses_does_not_hinder_the_others() -> None:
    disks = [FailingDisk("hd0", create=errno.EIO), disk("hd1"), FailingDisk("hd2", create=5)]
    machine = machine_with(*disks)
    machine.profile = SEED
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert caught.value.reason.splitlines() == [
        "Error while creating snapshot on 'hd0'",
        "Error while creating snapshot on 'hd2'",
    ]
    assert [len(device.snapshot_list()) for device in disks] == [0, 1, 0]


def test_in_the_seed_an_id_that_is_taken_on_another_disk_fails_there() -> None:
    first, second = disk(), disk("hd1")
    second.snapshot_create(SnapshotInfo(name="other"))  # takes id 1
    machine = machine_with(first, second)
    machine.profile = SEED
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert caught.value.reason == "Error while creating snapshot on 'hd1'"
    assert caught.value.errno == errno.EEXIST


def test_a_strict_save_takes_an_id_that_is_free_on_every_disk() -> None:
    first, second = disk(), disk("hd1")
    for name in ("other", "more"):
        second.snapshot_create(SnapshotInfo(name=name))
    machine = machine_with(first, second)
    assert savevm(machine, "s", now=NOW).id_str == "3"
    assert [info.id_str for info in second.snapshot_list()] == ["1", "2", "3"]
    # One that is replaced keeps its id only where no other snapshot has that.
    first.snapshot_create(SnapshotInfo("1", "t"))
    assert savevm(machine, "t", now=NOW).id_str == "4"
    assert [info.name for info in second.snapshot_list()] == ["other", "more", "s", "t"]


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=lambda profile: profile.name)
def test_an_id_does_not_replace_what_another_disk_calls_so(profile: Profile) -> None:
    first, second = disk(), disk("hd1")
    machine = machine_with(first, second)
    machine.profile = profile
    first.snapshot_create(SnapshotInfo("5", "s"))
    second.snapshot_create(SnapshotInfo("7", "5"))
    savevm(machine, "5", now=NOW)
    gone = profile is SEED
    assert [info.name for info in second.snapshot_list()] == (["s"] if gone else ["5", "s"])


class Watched(FailingDisk):
    """Says when it flushes and fails at the flush of that number."""

    bad_flush = -1

    def flush(self) -> None:
        super().flush()
        if self.flushes == self.bad_flush:
            raise OSError(errno.ENOSPC, "the disk says no")


@pytest.mark.parametrize(
    ("bad_flush", "text"),
    [
        (1, "Error while flushing device 'hd0': the disk says no"),
        (2, "Error while writing VM state: No space left on device"),
    ],
)
def test_a_flush_that_fails_at_the_end_fails_the_save_but_not_in_the_seed(
    bad_flush: int, text: str
) -> None:
    device = Watched("hd0")
    machine = machine_with(device)
    device.bad_flush = bad_flush
    with pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert (caught.value.reason, caught.value.errno) == (text, errno.ENOSPC)
    assert device.snapshot_list() == []
    assert machine.is_running()
    machine.profile = replace(STRICT, close_errors_ignored=True)
    device.bad_flush += device.flushes
    assert savevm(machine, "s", now=NOW).vm_state_size > 0


def test_a_list_that_cannot_be_read_counts_as_no_old_snapshot_in_the_seed() -> None:
    device = FailingDisk("hd0", list=errno.EIO)
    machine = machine_with(device)
    with pytest.raises(SnapshotError, match=r"^Error while listing snapshots on device 'hd0'"):
        savevm(machine, "s", now=NOW)
    assert device.vmstate_end() == 0
    machine.profile = SEED
    assert savevm(machine, "s", now=NOW).id_str == "1"


def test_writes_that_cannot_be_drained_fail_the_save_and_the_guest_runs_on() -> None:
    device = FailingDisk("hd0", drain=errno.EIO)
    device.submit_write(0, b"late")
    machine = machine_with(device)
    with pytest.raises(SnapshotError, match=r"^Error while draining device 'hd0'"):
        savevm(machine, "s", now=NOW)
    assert machine.is_running()
    device.fails = {}
    savevm(machine, "s", now=NOW)
    device.write(0, b"next")
    device.snapshot_goto("s")
    assert device.read(0, 4) == b"late"


def test_a_full_disk_keeps_the_old_snapshot_without_having_to_put_anything_back() -> None:
    class Stuck(FailingDisk):
        def restore(self, checkpoint: BlockCheckpoint) -> None:
            raise OSError(errno.EIO, "the disk says no")

    device = Stuck("hd0")
    machine = machine_with(device, disk("hd1"))
    made = savevm(machine, "s", now=NOW)
    device.fails = {"write": errno.ENOSPC}
    with pytest.raises(NotPutBackError):
        savevm(machine, "s", now=NOW)
    assert info_snapshots(machine).snapshots == (made,)
    device.fails = {}
    loadvm(machine, "s")


def test_a_device_that_raises_leaves_no_save_under_way_and_every_disk_as_it_was() -> None:
    class Broken(Exception):
        pass

    def raises(opaque: object) -> int:
        raise Broken

    machine = machine_with(disk(), disk("hd1"))
    savevm(machine, "s", now=NOW)
    told: list[object] = []
    handlers = SaveVMHandlers(cancel=told.append)
    machine.savevm.register_savevm_live(None, "live", 0, 1, handlers, machine)
    machine.savevm.vmstate_register(None, 0, VMStateDescription("broken", pre_save=raises), State())
    before = [device.checkpoint() for device in machine.block_devices]
    with pytest.raises(Broken):
        savevm(machine, "s", now=NOW)
    assert [device.checkpoint() for device in machine.block_devices] == before
    assert told == [machine]
    assert machine.is_running()


def test_what_a_failed_save_of_the_seed_left_behind_does_not_hurt_the_next() -> None:
    device = FailingDisk("hd0")
    machine = machine_with(device)
    device.fails = {"create": errno.EIO}
    machine.profile = SEED
    with pytest.raises(SnapshotError):
        savevm(machine, "s", now=NOW)
    assert device.vmstate_end() > 0
    device.fails = {}
    savevm(machine, "s", now=NOW)
    loadvm(machine, "s")


def test_a_snapshot_of_a_running_machine_says_that_it_ran() -> None:
    machine = none_machine()
    machine.block_devices.append(disk())
    machine.vm_start()
    savevm(machine, "s", now=NOW)
    assert machine.is_running()
    loadvm(machine, "s")
    state = machine.devices["globalstate"]
    assert isinstance(state, GlobalState)
    assert state.loaded_runstate == "running"
