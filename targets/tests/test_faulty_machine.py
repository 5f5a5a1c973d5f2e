"""Hooks that fail by plan, and subjects around which things go wrong."""

import errno
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

import pytest

from loadfuzz.abc import NamesFaultPlaces, Subject, TakesFaults
from loadfuzz.errors import UsageError
from loadfuzz.faults.kinds import KINDS, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, Place, fault_of
from loadfuzz.faults.steps import InjectedCancelError
from loadfuzz.faults.storage import FaultyDisk
from loadfuzz.inputs import WHOLE, Delivery
from loadfuzz_targets.faulty_machine import (
    ENDLESS_BYTES,
    InjectedHookError,
    InjectedNoMemoryError,
    faulty_hooks,
)
from loadfuzz_targets.hooks import (
    LOADING,
    OF_DESCRIPTIONS,
    OF_HANDLERS,
    check_hooks,
    hooks_of,
    place_of,
)
from loadfuzz_targets.reference import TARGET as REFERENCE
from loadfuzz_targets.snapshot import TARGET as SNAPSHOT
from loadfuzz_targets.subject import MachineSubject
from savevm.block import BlockDevice
from savevm.board import FULL, machine_with
from savevm.errors import LoadError, SaveError, SnapshotError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.profile import SEED
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.save import qemu_savevm_state_pending, save_to_bytes
from savevm.snapshot import savevm

STEPS = 50
NOW = datetime(2015, 6, 30, tzinfo=UTC)


def ran(*devices: str) -> Machine:
    machine = machine_with(*(devices or FULL))
    machine.step(STEPS)
    return machine


def plan(*faults: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, faults)))


# -- hooks by name ---------------------------------------------------------------------------


def test_hooks_have_names_and_those_a_load_calls_are_known() -> None:
    assert LOADING.issubset({*OF_DESCRIPTIONS, *OF_HANDLERS})
    places = [str(place) for place in hooks_of(ran())]
    assert len(places) == len(set(places))
    assert set(places).issuperset(
        {"ram/load_state", "ram/save_live_iterate", "0000:00:03.0/nic/post_load",
         "cpu/exception/post_load", "Fifo8/post_load", "globalstate/pre_save"}
    )  # fmt: skip
    for place in places:
        assert str(place_of(place)) == place


@pytest.mark.parametrize("name", ["nic/post_lunch", "post_load", "/post_load"])
def test_a_place_that_is_no_hook_is_refused_with_those_there_are(name: str) -> None:
    wrong = FaultPlan((Fault.of(FaultKind.NO_MEMORY, Place(PlaceKind.CALL, 0, name)),))
    with pytest.raises(UsageError, match="pre_load, post_load, load_state_old, pre_save"):
        check_hooks(wrong)


def test_every_kind_of_device_goes_with_some_hook() -> None:
    known = {kind for kinds in (*OF_DESCRIPTIONS.values(), *OF_HANDLERS.values()) for kind in kinds}
    assert known == {kind for kind, row in KINDS.items() if row.layer is Layer.DEVICE}


def test_a_machine_is_as_it_was_behind_the_block() -> None:
    machine = ran()
    before = [(entry.vmsd, entry.ops) for entry in machine.savevm.handlers]
    with faulty_hooks(machine, plan("no-memory@call:Fifo8/post_load#0"), print):
        inside = [(entry.vmsd, entry.ops) for entry in machine.savevm.handlers]
    assert [(entry.vmsd, entry.ops) for entry in machine.savevm.handlers] == before
    # Only what the fault is in was replaced.
    changed = [one for one, other in zip(inside, before, strict=True) if one != other]
    assert len(changed) == 1


# -- what hooks do under faults ----------------------------------------------------------------

LOADED = [str(place) for place in hooks_of(machine_with(*FULL)) if place.hook in LOADING]


@cache
def stream_of_all() -> bytes:
    return save_to_bytes(ran())


def loaded_under(faults: FaultPlan) -> tuple[Machine, list[Fault], BaseException | None, bool]:
    """A machine into which a stream was loaded meanwhile, what struck, what came out, and
    whether the machine is as before."""
    machine = machine_with(*FULL)
    machine.step(3)
    before, struck = machine.digest(), list[Fault]()
    caught: BaseException | None = None
    try:
        with faulty_hooks(machine, faults, struck.append):
            load_from_bytes(machine, stream_of_all())
    except (Exception, InjectedCancelError) as error:
        caught = error
    return machine, struck, caught, machine.digest() == before


@pytest.mark.parametrize("place", LOADED)
def test_whatever_a_hook_does_the_machine_is_put_back(place: str) -> None:
    expected: dict[str, type[Exception]] = {
        "hook-raises": InjectedHookError,
        "no-memory": InjectedNoMemoryError,
        "hook-refuses": LoadError,
    }
    for kind, error in expected.items():
        _, struck, caught, unchanged = loaded_under(plan(f"{kind}@call:{place}#0"))
        if struck:
            assert type(caught) is error
            assert unchanged
        else:
            # Subsections that this stream has not got, and old versions.
            assert caught is None


def test_most_hooks_of_a_load_are_reached() -> None:
    reached = {place for place in LOADED if loaded_under(plan(f"no-memory@call:{place}#0"))[1]}
    assert {place.rpartition("/")[2] for place in reached} >= LOADING - {"load_state_old"}
    assert len(reached) > len(LOADED) * 2 / 3


def test_a_refusal_has_the_errno_of_the_fault_and_the_path_of_the_device() -> None:
    _, _, caught, _ = loaded_under(plan("hook-refuses@call:nic/post_load#0=28"))
    assert isinstance(caught, LoadError)
    assert (caught.errno, caught.path[0]) == (errno.ENOSPC, "0000:00:03.0/nic")


def test_a_hook_that_raises_has_done_its_work_before() -> None:
    # Without a rollback something would be left of it.
    machine = ran("timer", "cpu")
    stream, before = save_to_bytes(machine), machine.digest()
    fresh = machine_with("timer", "cpu")
    seen: list[str] = []
    faults = plan("hook-raises@call:cpu/post_load#0")
    with (
        faulty_hooks(fresh, faults, lambda fault: seen.append(fresh.digest())),
        pytest.raises(InjectedHookError),
    ):
        load_from_bytes(fresh, stream)
    assert seen != [before]
    assert fresh.digest() == machine_with("timer", "cpu").digest()


def test_the_call_of_that_number_fails_and_no_other() -> None:
    machine = ran()
    stream = save_to_bytes(machine)
    struck: list[Fault] = []
    with faulty_hooks(machine, plan("hook-refuses@call:nic/post_load#1"), struck.append):
        load_from_bytes(machine, stream)
        assert struck == []
        with pytest.raises(LoadError):
            load_from_bytes(machine, stream)
        load_from_bytes(machine, stream)
    assert len(struck) == 1


def test_a_device_goes_by_its_section_its_name_on_the_board_and_its_description() -> None:
    for name in ("0000:00:03.0/nic", "nic"):
        _, struck, caught, _ = loaded_under(plan(f"hook-refuses@call:{name}/post_load#0"))
        assert (len(struck), type(caught)) == (1, LoadError)
    # Two names of one hook are two places.
    words = ["hook-refuses@call:nic/post_load#1", "hook-refuses@call:0000:00:03.0/nic/post_load#1"]
    machine = machine_with(*FULL)
    told: list[Fault] = []
    with faulty_hooks(machine, plan(*words), told.append):
        load_from_bytes(machine, stream_of_all())
        with pytest.raises(LoadError):
            load_from_bytes(machine, stream_of_all())
    assert len(told) == 2


def test_a_kind_that_does_not_go_with_a_hook_never_strikes() -> None:
    _, struck, caught, _ = loaded_under(
        plan("never-converges@call:ram/load_state#0", "never-converges@call:nic/post_load#0")
    )
    assert (struck, caught) == ([], None)


# -- saving ---------------------------------------------------------------------------------


def with_disk() -> tuple[Machine, BlockDevice]:
    machine, disk = ran(), BlockDevice("hd0", 1 << 16)
    machine.block_devices.append(disk)
    machine.vm_start()
    return machine, disk


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("hook-refuses@call:nic/pre_save#0=5", SnapshotError, errno.EIO),
        ("hook-raises@call:nic/pre_save#0", InjectedHookError, 0),
        ("no-memory@call:nic/pre_save#0", InjectedNoMemoryError, 0),
        ("hook-refuses@call:ram/save_live_setup#0=28", SnapshotError, errno.ENOSPC),
        ("hook-refuses@call:ram/save_live_iterate#0=28", SnapshotError, errno.ENOSPC),
        ("hook-refuses@call:ram/save_live_complete#0=28", SnapshotError, errno.ENOSPC),
        ("hook-raises@call:ram/save_live_iterate#0", InjectedHookError, 0),
        ("no-memory@call:ram/set_params#0", InjectedNoMemoryError, 0),
    ],
)
def test_a_savevm_whose_hook_fails_leaves_disk_guest_and_handlers_as_they_were(
    fault: str, error: type[Exception], code: int
) -> None:
    machine, disk = with_disk()
    before, struck = disk.checkpoint(), list[Fault]()
    assert machine.ram is not None
    with faulty_hooks(machine, plan(fault), struck.append), pytest.raises(error) as caught:
        savevm(machine, "s", now=NOW)
    assert [str(one) for one in struck] == [fault]
    assert not isinstance(caught.value, SnapshotError) or caught.value.errno == code
    assert disk.checkpoint() == before
    assert machine.is_running()
    assert machine.ram.outgoing.cache is None
    assert machine.ram.outgoing.block == 0
    # The next one is not disturbed.
    savevm(machine, "s", now=NOW)


def test_a_save_that_never_converges_ends_by_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("savevm.save.ROUNDS_MAX", 200)
    machine, disk = with_disk()
    before, struck = disk.checkpoint(), list[Fault]()
    faults = plan("never-converges@call:ram/save_live_iterate#0")
    with faulty_hooks(machine, faults, struck.append), pytest.raises(SnapshotError) as caught:
        savevm(machine, "s", now=NOW)
    assert caught.value.errno == errno.EIO
    assert len(struck) == 1
    assert disk.checkpoint() == before
    with faulty_hooks(machine, faults, struck.append), pytest.raises(SaveError):
        save_to_bytes(machine)


def test_a_handler_that_never_converges_has_more_to_send_than_can_be_sent() -> None:
    machine = ran()
    f = QEMUFileWriter(BytesSink())
    with faulty_hooks(machine, plan("never-converges@call:ram/save_live_pending#1"), print):
        pending = [qemu_savevm_state_pending(f, machine, 1) for _ in range(3)]
    assert pending == [qemu_savevm_state_pending(f, machine, 1), ENDLESS_BYTES, ENDLESS_BYTES]


# -- subjects ------------------------------------------------------------------------------------


def seed(target: str, name: str) -> bytes:
    seeds = (REFERENCE if target == "reference" else SNAPSHOT).seeds()
    return next(one.stream for one in seeds if one.name == name)


class Around:
    """A subject, a stream, and what the stream comes to when nothing goes wrong."""

    def __init__(self, target: str) -> None:
        self.subject: Subject = (REFERENCE if target == "reference" else SNAPSHOT).open()
        self.stream = seed(target, "small-ran")
        self.start = self.subject.digest()
        self.subject.load(self.stream, WHOLE, None)
        self.loaded = self.subject.digest()
        self.subject.reset()

    def load(
        self, faults: FaultPlan, delivery: Delivery = WHOLE
    ) -> tuple[LoadError | None, list[str]]:
        """Load under faults: the refusal, and what struck."""
        subject = self.subject
        assert isinstance(subject, TakesFaults)
        refusal: LoadError | None = None
        try:
            subject.load_under(self.stream, delivery, faults, None)
        except LoadError as error:
            refusal = error
        return refusal, [str(fault) for fault in subject.struck()]


@pytest.fixture(params=["reference", "snapshot"])
def around(request: pytest.FixtureRequest) -> Around:
    return Around(request.param)


def single_faults(subject: Subject, size: int) -> Iterator[Fault]:
    """Faults of every layer at many places."""
    assert isinstance(subject, NamesFaultPlaces)
    names = subject.fault_places()
    for kind, row in KINDS.items():
        if row.layer is Layer.TRANSPORT:
            for offset in (0, 1, size // 2, size - 1):
                yield Fault.of(kind, Place(PlaceKind.BYTE, offset))
        elif row.layer is Layer.PROCESS:
            for number in range(24):
                yield Fault.of(kind, Place(PlaceKind.STEP, number))
        elif kind is not FaultKind.NEVER_CONVERGES:
            for name in names.get(row.places[0], ()):
                for number in range(2):
                    yield Fault.of(kind, Place(row.places[0], number, name))


@pytest.mark.parametrize("delivery", [WHOLE, Delivery((200,))])
def test_after_any_one_fault_a_subject_is_as_it_was_or_as_after_the_load(
    around: Around, delivery: Delivery
) -> None:
    subject = around.subject
    assert isinstance(subject, TakesFaults)
    kinds = set[FaultKind]()
    for fault in single_faults(subject, len(around.stream)):
        assert fault.layer in subject.layers
        refusal, struck = around.load(FaultPlan((fault,)), delivery)
        kinds |= {fault.kind for _ in struck}
        if refusal is not None:
            assert struck, fault
            assert subject.digest() == around.start, fault
            continue
        row = KINDS[fault.kind]
        assert not struck or row.expectation != "must-reject", fault
        if not struck or row.expectation == "must-not-matter":
            assert subject.digest() == around.loaded, fault
        subject.reset()
    missing = {kind for kind, row in KINDS.items() if row.layer in subject.layers} - kinds
    assert missing == {FaultKind.NEVER_CONVERGES}


def test_without_faults_it_loads_as_ever(around: Around) -> None:
    refusal, struck = around.load(NO_FAULTS)
    assert (refusal, struck) == (None, [])
    assert around.subject.digest() == around.loaded


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("cancel@step:0", errno.ECANCELED),
        ("kill@step:0", errno.EINTR),
        ("no-memory@call:ram/load_state#0", errno.ENOMEM),
        ("hook-raises@call:cpu/post_load#0", errno.EFAULT),
        ("hook-refuses@call:cpu/post_load#0=28", errno.ENOSPC),
    ],
)
def test_what_a_fault_comes_to_is_told_by_its_errno(around: Around, fault: str, code: int) -> None:
    refusal, struck = around.load(plan(fault))
    assert refusal is not None
    assert (refusal.errno, struck) == (code, [fault])
    # The same subject is good for the next load.
    assert around.load(NO_FAULTS)[0] is None
    assert around.subject.digest() == around.loaded


def test_faults_of_all_layers_are_told_in_their_order() -> None:
    around = Around("snapshot")
    words = [
        "disk-short@disk:disk0/read-vmstate#0=100",
        "short-read@byte:0=1",
        "hook-refuses@call:cpu/post_load#0=22",
    ]
    refusal, struck = around.load(plan(*words[::-1]))
    assert refusal is not None
    assert sorted(struck) == sorted(words)
    assert struck[-1] == words[-1]


def test_only_our_own_cancellation_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    around = Around("reference")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("savevm.load.Loader.load_header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        around.load(plan("cancel@step:9"))


def test_an_exception_that_no_plan_asked_for_stays_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    around = Around("snapshot")

    def broken(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("savevm.load.Loader.load_header", broken)
    with pytest.raises(MemoryError):
        around.load(plan("cancel@step:999"))


def test_a_second_disk_that_does_not_go_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the digest says of it is the only witness: a load without faults has no such disk.
    class Stuck(FaultyDisk):
        def snapshot_goto(self, id_or_name: str) -> None:
            pass

    monkeypatch.setattr("loadfuzz_targets.snapshot.FaultyDisk", Stuck)
    around = Around("snapshot")
    refusal, _ = around.load(NO_FAULTS)
    assert refusal is None
    assert around.subject.digest() != around.loaded
    around.subject.reset()
    assert around.subject.digest() == around.start


def test_a_write_that_lands_after_the_disk_has_gone_back_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(FaultyDisk):
        def drain(self) -> None:
            if self.faults is None:
                super().drain()

    monkeypatch.setattr("loadfuzz_targets.snapshot.FaultyDisk", Late)
    around = Around("snapshot")
    assert around.load(NO_FAULTS)[0] is None
    assert around.subject.digest() != around.loaded


@pytest.mark.parametrize("step", range(1, 4))
def test_a_machine_whose_process_was_killed_is_a_new_one(step: int) -> None:
    # Under the seed's manners a load that breaks off leaves behind what it has loaded.
    machine = machine_with(*FULL, profile=SEED)
    subject = MachineSubject(machine)
    start = subject.digest()
    for word, left in ((f"cancel@step:{step}", True), (f"kill@step:{step}", False)):
        with pytest.raises(LoadError):
            subject.load_under(stream_of_all(), Delivery((8_000,)), plan(word), None)
        assert (subject.digest() != start) == left
        subject.reset()


def test_a_fault_of_a_disk_that_is_none_is_refused() -> None:
    around = Around("snapshot")
    with pytest.raises(UsageError, match="DISK/OPERATION"):
        around.load(plan("disk-eio@disk:disk0/chew#0"))
    assert around.load(NO_FAULTS)[0] is None
    with pytest.raises(UsageError, match="DEVICE/HOOK"):
        around.load(plan("no-memory@call:cpu/chew#0"))
    assert around.load(NO_FAULTS)[0] is None
