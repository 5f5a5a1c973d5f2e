"""loadvm: what it refuses, and what a failure leaves behind under each profile."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.block import BlockCheckpoint, BlockDevice
from savevm.errors import LoadError, SnapshotError
from savevm.machine import Machine, RunState
from savevm.profile import SEED, STRICT, Profile
from savevm.qemufile.sources import Buffer
from savevm.snapshot import hmp_loadvm, loadvm, savevm
from savevm.snapshot_info import SnapshotInfo
from savevm.snapshot_undo import NotPutBackError
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

MIB = 1 << 20
NOW = datetime(2015, 6, 30, 12, 34, 56, tzinfo=UTC)
PROFILES = pytest.mark.parametrize("profile", [STRICT, SEED], ids=lambda profile: profile.name)

CHIP = VMStateDescription("chip", fields=(fields.uint32("value"), fields.buffer("data", 5000)))
PICKY = VMStateDescription("picky", fields=(fields.uint8("value"), fields.uint8_equal("kind")))


class Chip(State):
    def __init__(self) -> None:
        super().__init__()
        self.value = 1
        self.data = bytearray(b"x" * 5000)

    def dev_path(self) -> str | None:
        return None

    def reset(self) -> None:
        self.value = 0
        self.data[:] = bytes(5000)

    def check_invariants(self) -> list[str]:
        return []

    def step(self) -> None:
        self.value += 1


class FailingDisk(BlockDevice):
    """Operations named in ``fails`` fail with that errno."""

    def __init__(self, name: str, **fails: int) -> None:
        super().__init__(name, MIB)
        self.fails = fails
        self.calls: list[str] = []

    def _call(self, operation: str) -> None:
        self.calls.append(operation)
        code = self.fails.get(operation)
        if code is not None:
            raise OSError(code, "the disk says no")

    def load_vmstate(self, position: int, size: int) -> bytes:
        self._call("read")
        return super().load_vmstate(position, size)

    def drain(self) -> None:
        self._call("drain")
        super().drain()

    def flush(self) -> None:
        self._call("flush")
        super().flush()

    def snapshot_list(self) -> list[SnapshotInfo]:
        self._call("list")
        return super().snapshot_list()

    def restore(self, checkpoint: BlockCheckpoint) -> None:
        self._call("restore")
        super().restore(checkpoint)

    def snapshot_goto(self, id_or_name: str) -> None:
        self._call("goto")
        super().snapshot_goto(id_or_name)


def machine_with(*disks: BlockDevice, profile: Profile = STRICT) -> Machine:
    """A machine with a chip and a picky device, that saved "s" and went on."""
    machine = Machine(profile=profile)
    chip, picky = Chip(), State(value=7, kind=3)
    machine.devices["chip"] = chip
    machine.savevm.vmstate_register(None, 0, CHIP, chip)
    machine.savevm.vmstate_register(None, 0, PICKY, picky)
    machine.block_devices.extend(disks)
    machine.vm_start()
    for device in disks:
        device.write(0, b"then")
    savevm(machine, "s", now=NOW)
    for device in disks:
        device.write(0, b"now ")
    machine.step(4)
    return machine


def disk(name: str = "hd0") -> BlockDevice:
    return BlockDevice(name, MIB)


def chip_of(machine: Machine) -> Chip:
    chip = machine.devices["chip"]
    assert isinstance(chip, Chip)
    return chip


Held = tuple[str, RunState, list[BlockCheckpoint]]


def held(machine: Machine) -> Held:
    """Everything a failed strict load must leave as it was."""
    disks = [device.checkpoint() for device in machine.block_devices]
    return machine.digest(), machine.runstate, disks


def replace_state(device: BlockDevice, data: bytes, size: int | None = None) -> None:
    """Make "s" hold another VM state, of the same id."""
    info = device.snapshot_find("s")
    device.snapshot_delete_by_id_or_name("s")
    device.save_vmstate(data, 0)
    size = len(data) if size is None else size
    device.snapshot_create(replace(info, vm_state_size=size))


def state_of(device: BlockDevice) -> bytes:
    """The VM state that "s" holds."""
    before = device.checkpoint()
    device.snapshot_goto("s")
    data = device.load_vmstate(0, device.snapshot_find("s").vm_state_size)
    device.restore(before)
    return data


# -- success ---------------------------------------------------------------------------------


@PROFILES
def test_machine_and_all_disks_are_what_they_were(profile: Profile) -> None:
    disks = [disk(), disk("hd1")]
    machine = machine_with(*disks, profile=profile)
    assert chip_of(machine).value == 5
    loadvm(machine, "s")
    assert chip_of(machine).value == 1
    assert chip_of(machine).data == b"x" * 5000
    assert [device.read(0, 4) for device in disks] == [b"then", b"then"]
    machine.step()
    assert chip_of(machine).value == 2


def test_a_snapshot_can_be_loaded_again_and_by_its_id() -> None:
    machine = machine_with(disk())
    for name in ("s", "1", "s"):
        machine.step(3)
        loadvm(machine, name)
        assert chip_of(machine).value == 1


def test_writes_under_way_land_before_the_disks_go_back() -> None:
    first, second = FailingDisk("hd0"), FailingDisk("hd1")
    machine = machine_with(first, second)
    second.submit_write(0, b"late")
    second.calls.clear()
    loadvm(machine, "s")
    assert second.calls == ["list", "drain", "goto"]
    assert second.read(0, 4) == b"then"


def test_empty_and_read_only_drives_are_passed_over() -> None:
    machine = machine_with(disk())
    rom = BlockDevice("rom0", MIB, read_only=True)
    machine.block_devices.append(rom)
    machine.block_devices.append(BlockDevice("cd0", MIB, inserted=False))
    before = rom.checkpoint()
    loadvm(machine, "s")
    assert rom.checkpoint() == before


def test_every_device_is_reset_before_any_is_loaded() -> None:
    machine = machine_with(disk())
    seen: list[int] = []

    class Unsaved(Chip):
        def reset(self) -> None:
            seen.append(chip_of(machine).value)

    machine.devices["unsaved"] = Unsaved()
    loadvm(machine, "s")
    assert seen == [0]


def test_a_load_is_traced() -> None:
    machine, log = machine_with(disk()), TraceLog()
    loadvm(machine, "s", trace=log)
    assert log.named("vmstate_load") == [("chip", "chip"), ("picky", "picky")]


@given(st.lists(st.sampled_from(["step", "save", "load", "write"]), max_size=12))
@settings(max_examples=40, deadline=None)
def test_loading_always_gives_what_was_saved_last(operations: list[str]) -> None:
    machine = machine_with(disk(), disk("hd1"))
    saved = (1, b"then")
    for number, operation in enumerate(operations):
        if operation == "step":
            machine.step()
        elif operation == "write":
            for device in machine.block_devices:
                device.write(0, bytes([number]) * 4)
        elif operation == "save":
            savevm(machine, "s", now=NOW)
            saved = (chip_of(machine).value, machine.block_devices[0].read(0, 4))
        else:
            loadvm(machine, "s")
            assert chip_of(machine).value == saved[0]
            assert {device.read(0, 4) for device in machine.block_devices} == {saved[1]}


# -- refusals, before anything is touched --------------------------------------------------------


def no_disk(machine: Machine) -> None:
    machine.block_devices.clear()


def nothing_inserted(machine: Machine) -> None:
    for device in machine.block_devices:
        device.inserted = False


def all_read_only(machine: Machine) -> None:
    for device in machine.block_devices:
        device.read_only = True


def raw_disk(machine: Machine) -> None:
    machine.block_devices.append(BlockDevice("raw0", MIB, internal_snapshots=False))


def missing_on_the_state_disk(machine: Machine) -> None:
    machine.block_devices[0].snapshot_delete_by_id_or_name("s")


def missing_on_another_disk(machine: Machine) -> None:
    machine.block_devices[1].snapshot_delete_by_id_or_name("s")


def disk_only(machine: Machine) -> None:
    # Without the first disk, the second is the one whose state would be loaded.
    del machine.block_devices[0]


REFUSALS: list[tuple[Callable[[Machine], None], str, int]] = [
    (no_disk, "No block device supports snapshots", errno.ENOTSUP),
    (nothing_inserted, "No block device supports snapshots", errno.ENOTSUP),
    (all_read_only, "No block device supports snapshots", errno.ENOTSUP),
    (raw_disk, "Device 'raw0' is writable but does not support snapshots.", errno.ENOTSUP),
    (
        missing_on_the_state_disk,
        "Device 'hd0' does not have the requested snapshot 's'",
        errno.ENOENT,
    ),
    (
        missing_on_another_disk,
        "Device 'hd1' does not have the requested snapshot 's'",
        errno.ENOENT,
    ),
    (
        disk_only,
        "This is a disk-only snapshot. Revert to it offline using qemu-img.",
        errno.EINVAL,
    ),
]


@PROFILES
@pytest.mark.parametrize(("damage", "text", "code"), REFUSALS)
def test_a_refusal_touches_neither_machine_nor_disks(
    damage: Callable[[Machine], None], text: str, code: int, profile: Profile
) -> None:
    machine = machine_with(disk(), disk("hd1"), profile=profile)
    damage(machine)
    before = held(machine)
    with pytest.raises(SnapshotError) as caught:
        loadvm(machine, "s")
    assert (caught.value.reason, caught.value.errno) == (text, code)
    assert held(machine) == before


# -- failures on the way ---------------------------------------------------------------------


def cut_stream(disks: Sequence[FailingDisk]) -> None:
    replace_state(disks[0], state_of(disks[0])[:3000])


def bad_value(disks: Sequence[FailingDisk]) -> None:
    data = bytearray(state_of(disks[0]))
    # The picky device's section holds its value 7 and its kind 3, then the footer.
    at = data.index(b"\x07\x03\x7e") + 1
    data[at] = 4
    replace_state(disks[0], bytes(data))


def empty_area(disks: Sequence[FailingDisk]) -> None:
    replace_state(disks[0], b"", size=1000)


def no_stream(disks: Sequence[FailingDisk]) -> None:
    replace_state(disks[0], b"#!/bin/sh\n" * 100)


def goto_fails_on_the_first(disks: Sequence[FailingDisk]) -> None:
    disks[0].fails["goto"] = errno.EIO


def goto_fails_on_the_second(disks: Sequence[FailingDisk]) -> None:
    disks[1].fails["goto"] = errno.EIO


def read_fails(disks: Sequence[FailingDisk]) -> None:
    disks[0].fails["read"] = errno.EIO


def list_fails_on_the_second(disks: Sequence[FailingDisk]) -> None:
    disks[1].fails["list"] = errno.EIO


def drain_fails_on_the_second(disks: Sequence[FailingDisk]) -> None:
    disks[1].fails["drain"] = errno.EIO


FAILURES: list[tuple[Callable[[Sequence[FailingDisk]], None], str]] = [
    (cut_stream, "Error -5 while loading VM state"),
    (bad_value, "Error -22 while loading VM state"),
    (empty_area, "Error -22 while loading VM state"),
    (no_stream, "Error -22 while loading VM state"),
    (goto_fails_on_the_first, "Error -5 while activating snapshot 's' on 'hd0'"),
    (goto_fails_on_the_second, "Error -5 while activating snapshot 's' on 'hd1'"),
    (read_fails, "Error -5 while loading VM state"),
    (
        list_fails_on_the_second,
        "Error while listing snapshots on device 'hd1': the disk says no",
    ),
    (drain_fails_on_the_second, "Error while draining device 'hd1': the disk says no"),
]
SEED_FAILURES = [damage for damage, _ in FAILURES if damage is not drain_fails_on_the_second]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(("damage", "text"), FAILURES)
def test_a_failed_strict_load_leaves_everything_as_it_was(
    damage: Callable[[Sequence[FailingDisk]], None], text: str, running: bool
) -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks)
    if not running:
        machine.vm_stop(RunState.PAUSED)
    damage(disks)
    before = held(machine)
    for load in (loadvm, hmp_loadvm):
        with pytest.raises(SnapshotError) as caught:
            load(machine, "s")
        assert caught.value.reason == text
        assert held(machine) == before
    machine.step()
    assert chip_of(machine).value == 6


def test_the_cause_of_a_failed_load_is_the_load_error() -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks)
    bad_value(disks)
    with pytest.raises(SnapshotError) as caught:
        loadvm(machine, "s")
    cause = caught.value.__cause__
    assert isinstance(cause, LoadError)
    assert cause.path[0] == "picky"
    assert caught.value.errno == cause.errno


def test_a_load_that_is_abandoned_leaves_everything_as_it_was() -> None:
    class Abandoned(BaseException):
        pass

    class Slow(BlockDevice):
        def load_vmstate(self, position: int, size: int) -> bytes:
            raise Abandoned

    machine = machine_with(Slow("hd0", MIB))
    before = held(machine)
    for load in (loadvm, hmp_loadvm):
        with pytest.raises(Abandoned):
            load(machine, "s")
        assert held(machine) == before


@pytest.mark.parametrize("damage", SEED_FAILURES)
def test_after_a_failed_load_the_seed_leaves_the_machine_stopped(
    damage: Callable[[Sequence[FailingDisk]], None],
) -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks, profile=SEED)
    damage(disks)
    with pytest.raises(SnapshotError):
        hmp_loadvm(machine, "s")
    assert machine.runstate is RunState.RESTORE_VM


def test_a_disk_that_cannot_be_put_back_keeps_the_guest_stopped() -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1"), FailingDisk("hd2")]
    machine = machine_with(*disks)
    before = machine.digest(), [device.checkpoint() for device in disks]
    goto_fails_on_the_second(disks)
    disks[0].fails["restore"] = errno.ENOSPC
    with pytest.raises(NotPutBackError) as caught:
        hmp_loadvm(machine, "s")
    assert caught.value.reason.splitlines() == [
        "Error -5 while activating snapshot 's' on 'hd1'",
        "Error while putting back device 'hd0', which stays as it is: the disk says no",
    ]
    assert caught.value.errno == errno.EIO
    # The other disks and the machine were put back all the same.
    assert machine.runstate is RunState.RESTORE_VM
    machine.board.runstate = RunState.RUNNING
    after = [device.checkpoint() for device in disks]
    assert (machine.digest(), after[1:]) == (before[0], before[1][1:])
    assert disks[0].read(0, 4) == b"then"


def test_what_a_disk_that_cannot_be_put_back_did_to_a_cancelled_load_is_noted() -> None:
    class Abandoned(BaseException):
        pass

    class Slow(FailingDisk):
        def load_vmstate(self, position: int, size: int) -> bytes:
            raise Abandoned

    machine = machine_with(Slow("hd0", restore=errno.EIO))
    with pytest.raises(Abandoned) as caught:
        hmp_loadvm(machine, "s")
    assert caught.value.__notes__ == [
        "Error while putting back device 'hd0', which stays as it is: the disk says no"
    ]
    assert machine.runstate is RunState.RESTORE_VM


def test_a_disk_that_cannot_be_flushed_is_not_taken_back() -> None:
    machine = machine_with(disk(), FailingDisk("hd1"))
    second = machine.block_devices[1]
    assert isinstance(second, FailingDisk)
    second.fails["flush"] = errno.EIO
    before = held(machine)
    with pytest.raises(SnapshotError, match=r"^Error while flushing device 'hd1'"):
        hmp_loadvm(machine, "s")
    assert held(machine) == before
    machine.profile = SEED
    hmp_loadvm(machine, "s")
    assert second.read(0, 4) == b"then"


def test_in_the_seed_a_write_that_could_not_be_drained_lands_on_the_old_contents() -> None:
    machine = machine_with(disk(), FailingDisk("hd1"), profile=SEED)
    second = machine.block_devices[1]
    assert isinstance(second, FailingDisk)
    second.submit_write(0, b"late")
    second.fails["drain"] = errno.EIO
    hmp_loadvm(machine, "s")
    del second.fails["drain"]
    second.drain()
    assert second.read(0, 4) == b"late"


def test_snapshots_of_two_moments_are_not_loaded_together() -> None:
    for profile in (STRICT, SEED):
        machine = machine_with(disk(), disk("hd1"), profile=profile)
        second = machine.block_devices[1]
        info = second.snapshot_find("s")
        second.snapshot_delete_by_id_or_name("s")
        second.snapshot_create(replace(info, date_sec=info.date_sec + 1))
        before = held(machine)
        if profile is SEED:
            loadvm(machine, "s")
            assert [device.read(0, 4) for device in machine.block_devices] == [b"then", b"now "]
            continue
        with pytest.raises(SnapshotError, match="of another moment than device 'hd0'"):
            loadvm(machine, "s")
        assert held(machine) == before


def test_in_the_seed_a_cut_state_goes_on_in_zeros_until_a_footer_is_missing() -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks, profile=SEED)
    cut_stream(disks)
    with pytest.raises(SnapshotError) as caught:
        loadvm(machine, "s")
    cause = caught.value.__cause__
    assert isinstance(cause, LoadError)
    assert cause.qemu == "Missing section footer for chip"
    assert chip_of(machine).data.count(b"x") < 3000


def test_in_the_seed_a_failed_load_has_reverted_the_disks_and_reset_the_machine() -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks, profile=SEED)
    no_stream(disks)
    with pytest.raises(SnapshotError):
        loadvm(machine, "s")
    assert disks[1].read(0, 4) == b"then"
    assert chip_of(machine).value == 0
    assert machine.is_running()


def test_in_the_seed_a_goto_that_fails_leaves_the_disks_before_it_reverted() -> None:
    disks = [FailingDisk("hd0"), FailingDisk("hd1")]
    machine = machine_with(*disks, profile=SEED)
    goto_fails_on_the_second(disks)
    with pytest.raises(SnapshotError):
        loadvm(machine, "s")
    assert [device.read(0, 4) for device in disks] == [b"then", b"now "]
    assert chip_of(machine).value == 5


def test_a_cut_at_a_section_is_seen_by_its_size_but_not_by_the_seed() -> None:
    for profile in (STRICT, SEED):
        machine = machine_with(disk(), profile=profile)
        device = machine.block_devices[0]
        stream = state_of(device)
        # A section of type FULL begins where the picky device's does.
        cut = stream.index(b"\x05picky") - 5
        replace_state(device, stream[:cut])
        if profile is SEED:
            loadvm(machine, "s")  # the zeros behind it look like the end
            assert chip_of(machine).value == 1
        else:
            with pytest.raises(SnapshotError, match="Error -5"):
                loadvm(machine, "s")


def test_an_area_with_an_end_is_refused_by_the_seed_too() -> None:
    device = BlockDevice("hd0", MIB, zeros_past_end=False)
    machine = machine_with(device, profile=SEED)
    stream = state_of(device)
    replace_state(device, stream[: stream.index(b"\x05picky") - 5])
    with pytest.raises(SnapshotError, match="Error -5 while loading VM state"):
        loadvm(machine, "s")


@PROFILES
def test_no_prefix_of_a_state_escapes_as_anything_but_a_snapshot_error(profile: Profile) -> None:
    machine = machine_with(disk(), profile=profile)
    device = machine.block_devices[0]
    stream = state_of(device)
    for size in [*range(1, 200), len(stream) - 1]:
        replace_state(device, stream[:size])
        before = held(machine)
        try:
            loadvm(machine, "s")
        except SnapshotError:
            assert profile is SEED or held(machine) == before


class Torn(BlockDevice):
    """Loses every write of VM state behind the first bytes."""

    def writev_vmstate(self, pieces: Sequence[Buffer], position: int) -> None:
        data = b"".join(pieces)
        super().writev_vmstate((data[: max(2000 - position, 0)],), position)


@PROFILES
def test_a_torn_write_is_found_when_the_state_is_loaded(profile: Profile) -> None:
    machine = machine_with(Torn("hd0", MIB), profile=profile)
    with pytest.raises(SnapshotError, match="Error -22 while loading VM state") as caught:
        loadvm(machine, "s")
    assert isinstance(caught.value.__cause__, LoadError)


# -- the monitor's command -----------------------------------------------------------------------


@PROFILES
@pytest.mark.parametrize("runstate", [RunState.RUNNING, RunState.PAUSED])
def test_the_machine_runs_again_only_if_it_ran(profile: Profile, runstate: RunState) -> None:
    machine = machine_with(disk(), profile=profile)
    if runstate is not RunState.RUNNING:
        machine.vm_stop(runstate)
    seen: list[RunState] = []
    reset = machine.reset

    def watched() -> None:
        seen.append(machine.runstate)
        reset()

    machine.reset = watched  # type: ignore[method-assign]
    hmp_loadvm(machine, "s")
    assert machine.runstate is runstate
    running = runstate is RunState.RUNNING
    assert seen == [RunState.RESTORE_VM if running else RunState.PAUSED]


@PROFILES
def test_a_refused_load_of_a_running_machine(profile: Profile) -> None:
    machine = machine_with(disk(), profile=profile)
    with pytest.raises(SnapshotError):
        hmp_loadvm(machine, "nothing of that name")
    stays = RunState.RESTORE_VM if profile is SEED else RunState.RUNNING
    assert machine.runstate is stays
