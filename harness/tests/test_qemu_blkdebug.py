"""Storage that fails under loadvm, savevm and delvm of a real QEMU, and the oracle that judges."""

import asyncio
import errno
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.faults.plan import fault_of
from loadfuzz.qemu import blkdebug, instance, storage_run
from loadfuzz.qemu.asking import FailedError
from loadfuzz.qemu.blkdebug import FailingStorage
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.peers import Peer, Peers, Role, peers
from loadfuzz.qemu.profiles import profiles
from loadfuzz.qemu.storage_faults import (
    EVENTS,
    FLUSH,
    FRESH,
    OTHER,
    STEPS_MAX,
    VICTIM,
    Operation,
    StorageFault,
    table,
)
from loadfuzz.qemu.storage_oracle import (
    LEFT,
    MEANINGS,
    StorageAttempt,
    StorageHazard,
    hazards_of,
    judge,
)
from loadfuzz.qemu.storage_run import StorageRow, StorageSettings, StorageTally, run
from loadfuzz.repro.folder import read_manifest

LOAD = StorageFault(Operation.LOAD, "vmstate_load")
REFUSED = "Error: Error -5 while loading VM state"


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place of the test's own instead of shared memory; empty at the end, and no QEMU left."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr(instance, "SHARED_MEMORY", folder)
    yield folder
    assert list(folder.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


def spec_of(binary: str, name: str = "microvm") -> MachineSpec:
    return replace(profiles()[name].spec(), binary=binary)


def attempts(
    spec: MachineSpec, base: Path, faults: Sequence[StorageFault]
) -> tuple[list[StorageAttempt], set[int]]:
    """What came of each, and the processes that were used."""

    pids: set[int] = set()
    take = Peers.take

    async def remembering(self: Peers, role: Role) -> Peer:
        peer = await take(self, role)
        pids.add(peer.process.pid)
        return peer

    async def main() -> list[StorageAttempt]:
        stream = await capture(spec)
        found: list[StorageAttempt] = []
        images = base / "images"
        images.mkdir()
        async with peers(spec, base, ready=0, spares=0) as crew:
            storage = FailingStorage(crew, images, stream)
            for fault in faults:
                found.append(await storage.attempt(fault))
        for path in images.iterdir():
            path.unlink()
        images.rmdir()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Peers, "take", remembering)
        return asyncio.run(main()), pids


# -- faults ----------------------------------------------------------------------------------------


def test_the_table_has_each_event_under_each_operation_in_all_ways() -> None:
    faults = list(table())
    assert len(set(map(str, faults))) == len(faults)
    for operation in Operation:
        for event in EVENTS:
            mine = [one for one in faults if (one.operation, one.event) == (operation, event)]
            first = {(one.errno, one.once, one.immediately) for one in mine if one.step == 0}
            assert len(first) == 8
            steps = {one.step for one in mine}
            assert steps == ({0} if event == FLUSH else set(range(STEPS_MAX)))


def test_a_fault_becomes_rules_of_blkdebug() -> None:
    fault = StorageFault(Operation.SAVE, "l2_update", errno.ENOSPC, 2, False, True)
    assert fault.rules() == {
        "inject-error": [
            {"event": "l2_update", "state": 3, "errno": 28, "once": False, "immediately": True}
        ],
        "set-state": [
            {"event": "l2_update", "state": 1, "new_state": 2},
            {"event": "l2_update", "state": 2, "new_state": 3},
        ],
    }
    assert str(fault) == "save/l2_update#2/ENOSPC/always/immediately"
    assert str(fault.plan) == "disk-enospc@disk:disk0/l2_update#2"
    assert fault_of(str(fault.plan)) == fault.plan.faults[0]


def test_a_flush_fails_by_kind_of_request() -> None:
    assert StorageFault(Operation.LOAD, FLUSH).rules() == {
        "inject-error": [
            {"event": "none", "state": 1, "errno": 5, "once": True, "immediately": False,
             "iotype": "flush"}
        ]
    }  # fmt: skip


# -- the oracle ------------------------------------------------------------------------------------

DONE = {
    Operation.LOAD: frozenset({VICTIM, OTHER}),
    Operation.SAVE: frozenset({VICTIM, OTHER, FRESH}),
    Operation.OVERWRITE: frozenset({VICTIM, OTHER}),
    Operation.DELETE: frozenset({OTHER}),
}
BEFORE = frozenset({VICTIM, OTHER})
DIED = Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGABRT", "no", ()))
HANGS = Execution(ExitKind.TIMED_OUT, Depth.NOTHING, escape=Escape("hang", "busy", ()))


def done(operation: Operation) -> StorageAttempt:
    """An operation that went well although something failed."""
    return StorageAttempt(StorageFault(operation, "read_aio"), names=DONE[operation])


def failed(operation: Operation) -> StorageAttempt:
    """An operation that did not, and said so."""
    state = "restore-vm" if operation is Operation.LOAD else "running"
    fault = StorageFault(operation, "read_aio")
    return StorageAttempt(fault, answer=REFUSED, state=state, names=BEFORE)


@pytest.mark.parametrize("operation", Operation)
def test_success_and_a_clean_error_break_no_promise(operation: Operation) -> None:
    assert judge(done(operation)) == judge(failed(operation)) == ()
    assert hazards_of(done(operation)) == ()


@pytest.mark.parametrize(
    ("attempt", "signature"),
    [
        (StorageAttempt(LOAD), "storage:load/vmstate_load: that is not said"),
        (StorageAttempt(StorageFault(Operation.SAVE, "vmstate_save"), names=DONE[Operation.SAVE]),
         "storage:save/vmstate_save: that is not said"),
        (replace(done(Operation.SAVE), names=BEFORE),
         "storage:save/read_aio: not done, and that is not said"),
        (replace(done(Operation.DELETE), names=BEFORE),
         "storage:delete/read_aio: not done, and that is not said"),
        (replace(failed(Operation.DELETE), names=frozenset()),
         "storage:delete/read_aio: wrong snapshots are left"),
        (replace(failed(Operation.SAVE), names=None),
         "storage:save/read_aio: wrong snapshots are left"),
        (replace(failed(Operation.LOAD), other=REFUSED),
         "storage:load/read_aio: another snapshot does not load"),
        (replace(done(Operation.SAVE), saved=REFUSED),
         "storage:save/read_aio: what was saved does not load"),
        (replace(failed(Operation.LOAD), state="running"),
         "storage:load/read_aio: the guest is in the wrong state"),
        (replace(failed(Operation.SAVE), state="save-vm"),
         "storage:save/read_aio: the guest is in the wrong state"),
        (replace(done(Operation.LOAD), state="paused"),
         "storage:load/read_aio: the guest is in the wrong state"),
        (StorageAttempt(LOAD, execution=DIED),
         "clean-error:load/vmstate_load: it dies: SIGABRT no"),
        (StorageAttempt(LOAD, execution=HANGS), "no-hang:load/vmstate_load: it hangs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_promise_that_is_broken_rings(attempt: StorageAttempt, signature: str) -> None:
    assert [violation.signature for violation in judge(attempt)] == [signature]


@pytest.mark.parametrize(
    ("attempt", "hazard"),
    [
        (failed(Operation.LOAD), StorageHazard.LEFT_STOPPED),
        (replace(failed(Operation.OVERWRITE), names=frozenset({OTHER})), StorageHazard.OLD_LOST),
        (replace(failed(Operation.DELETE), names=frozenset({OTHER})),
         StorageHazard.DONE_ALL_THE_SAME),
        (replace(failed(Operation.SAVE), held=True), StorageHazard.NODE_HELD),
        (StorageAttempt(LOAD, opened=False, answer="no"), StorageHazard.NOT_OPENED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_known_is_a_hazard_and_no_violation(
    attempt: StorageAttempt, hazard: StorageHazard
) -> None:
    assert judge(attempt) == ()
    assert hazards_of(attempt) == (hazard,)


@pytest.mark.parametrize("operation", Operation)
def test_what_is_refused_leaves_the_snapshots_that_this_operation_may_leave(
    operation: Operation,
) -> None:
    names = (VICTIM, OTHER, FRESH)
    every = {frozenset(some) for size in range(4) for some in itertools.combinations(names, size)}
    # Whoever loads or saves has no business with the old snapshot.
    allowed = {
        Operation.LOAD: {BEFORE},
        Operation.SAVE: {BEFORE, BEFORE | {FRESH}},
        Operation.OVERWRITE: {BEFORE, frozenset({OTHER})},
        Operation.DELETE: {BEFORE, frozenset({OTHER})},
    }[operation]
    assert set(LEFT) == set(Operation)
    assert len(every) == 8
    for left in every:
        violations = judge(replace(failed(operation), names=left))
        titles = [violation.signature.partition(": ")[2] for violation in violations]
        assert titles == ([] if left in allowed else ["wrong snapshots are left"]), left


def test_tables_of_both_levels_are_two_places() -> None:
    first, second = (
        judge(StorageAttempt(StorageFault(Operation.SAVE, event)))[0].signature
        for event in ("l1_update", "l2_update")
    )
    assert first != second


def test_every_hazard_has_its_meaning() -> None:
    assert set(MEANINGS) == set(StorageHazard)


@pytest.mark.qemu
def test_a_process_that_broke_a_promise_is_not_used_again(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blkdebug, "judge", lambda attempt: ("planted",))
    _, pids = attempts(spec_of(qemu_binary, "none"), base, [LOAD, LOAD, LOAD])
    assert len(pids) == 3


# -- a real QEMU -----------------------------------------------------------------------------------


@pytest.mark.qemu
def test_a_load_whose_reads_fail_is_refused_and_the_process_goes_on(
    qemu_binary: str, base: Path
) -> None:
    faults = [fault for fault in table() if "load/vmstate_load#0" in str(fault)]
    found, pids = attempts(spec_of(qemu_binary), base, faults)
    assert len(found) == 8
    for attempt in found:
        assert attempt.answer.endswith("while loading VM state")
        assert (attempt.state, attempt.names, attempt.other) == ("restore-vm", BEFORE, "")
        assert judge(attempt) == ()
    assert len(pids) == 1


@pytest.mark.qemu
def test_a_later_occurrence_is_reached_after_those_before_it(qemu_binary: str, base: Path) -> None:
    # A state of some tens of kB is read in pieces of 32.
    first, second, never = (replace(LOAD, step=step) for step in (0, 1, 40))
    found, _ = attempts(spec_of(qemu_binary), base, [first, second, never])
    assert "Not a migration stream" in found[0].answer
    assert found[1].refused
    assert "Not a migration stream" not in found[1].answer
    assert not found[2].refused
    assert found[2].state == "running"


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("fault", "names", "refused"),
    [
        (StorageFault(Operation.SAVE, "vmstate_save"), BEFORE, True),
        (StorageFault(Operation.SAVE, "vmstate_load"), BEFORE | {FRESH}, False),
        (StorageFault(Operation.OVERWRITE, "vmstate_save"), frozenset({OTHER}), True),
        (StorageFault(Operation.DELETE, "vmstate_load"), frozenset({OTHER}), False),
        (StorageFault(Operation.DELETE, "cluster_alloc"), BEFORE, True),
    ],
    ids=str,
)
def test_saving_and_deleting_say_what_they_did(
    qemu_binary: str, fault: StorageFault, names: frozenset[str], refused: bool, base: Path
) -> None:
    ((attempt,), _) = attempts(spec_of(qemu_binary), base, [fault])
    assert (attempt.names, attempt.refused, attempt.state) == (names, refused, "running")
    assert judge(attempt) == ()


@pytest.mark.qemu
def test_an_image_that_cannot_be_opened_is_refused_at_once(qemu_binary: str, base: Path) -> None:
    fault = StorageFault(Operation.LOAD, "reftable_load")
    ((attempt, after), _) = attempts(spec_of(qemu_binary), base, [fault, LOAD])
    assert not attempt.opened
    assert "Input/output error" in attempt.answer
    assert after.opened


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["none", "microvm"])
def test_a_run_tries_what_was_chosen_and_finds_nothing_in_loads(
    qemu_binary: str, name: str, base: Path
) -> None:
    rows: list[StorageRow] = []
    tally = StorageTally(tell=rows.append)
    settings = StorageSettings("qemu:x", spec_of(qemu_binary, name), only="load/l2_load")
    asyncio.run(run(settings, base, tally))
    assert [row.fault for row in rows] == [str(fault) for fault in settings.faults()]
    assert rows == tally.rows
    assert tally.findings == {}
    assert tally.skipped == []
    assert tally.counts()["load refused"] > 0


@pytest.mark.qemu
def test_what_broke_a_promise_is_kept(
    qemu_binary: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the error of a load were forgotten.
    monkeypatch.setattr(blkdebug, "_error_in", lambda reply: "")
    out = tmp_path / "found"
    tally = StorageTally()
    settings = StorageSettings("qemu:x", spec_of(qemu_binary, "none"), 1, None, "load/vmstate_load",
                               lambda: out)  # fmt: skip
    asyncio.run(run(settings, base, tally))
    said, state = sorted(tally.findings)
    assert said == "storage:load/vmstate_load: that is not said"
    assert state == "storage:load/vmstate_load: the guest is in the wrong state"
    finding, place = tally.findings[said]
    assert finding.reliability == (3, 3)
    assert str(finding.input.faults) == "disk-eio@disk:disk0/vmstate_load#0"
    assert read_manifest(Path(place)).signature == said
    assert "--storage --only 'load/vmstate_load#0/EIO/once'" in (
        Path(place) / "storage.txt"
    ).read_text()  # fmt: skip


@pytest.mark.qemu
@pytest.mark.parametrize("trouble", [InfraError, UsageError, asyncio.CancelledError])
def test_what_was_found_is_kept_when_trying_again_fails(
    qemu_binary: str,
    trouble: type[BaseException],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blkdebug, "_error_in", lambda reply: "")
    attempt, calls = FailingStorage.attempt, 0

    async def troubled(self: FailingStorage, fault: StorageFault) -> StorageAttempt:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise trouble("planted")
        return await attempt(self, fault)

    monkeypatch.setattr(FailingStorage, "attempt", troubled)
    tally = StorageTally()
    settings = StorageSettings("qemu:x", spec_of(qemu_binary, "none"), 1, None, "load/vmstate_load",
                               lambda: tmp_path / "found")  # fmt: skip
    if trouble is asyncio.CancelledError:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run(settings, base, tally))
    else:
        asyncio.run(run(settings, base, tally))
    assert len(tally.rows) == 1
    assert len(tally.findings) == 2
    for signature, (finding, place) in tally.findings.items():
        assert finding.reliability == ((1, 1) if calls == 3 else (2, 2))
        assert finding.again == (
            "loadfuzz migrate qemu:x --storage --only 'load/vmstate_load#0/EIO/once'"
        )
        assert read_manifest(Path(place)).signature == signature


@pytest.mark.qemu
def test_a_process_that_lacks_memory_is_no_verdict(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hungry(*_: object) -> StorageAttempt:
        raise FailedError("")

    async def judged(*_: object) -> Execution:
        return Execution(ExitKind.OUT_OF_MEMORY, Depth.NOTHING)

    monkeypatch.setattr(FailingStorage, "_tried", hungry)
    monkeypatch.setattr(blkdebug, "judge_failure", judged)
    tally = StorageTally()
    settings = StorageSettings("qemu:x", spec_of(qemu_binary, "none"), 1)
    asyncio.run(run(settings, base, tally))
    assert (tally.rows, tally.findings, len(tally.skipped)) == ([], {}, 1)
    assert "want of memory" in tally.skipped[0]


@pytest.mark.qemu
def test_a_limit_of_time_is_kept(qemu_binary: str, base: Path) -> None:
    class Hours:
        """A clock that moves by an hour each time it is looked at."""

        now = 0.0

        def now_s(self) -> float:
            self.now += 3600
            return self.now

    tally = StorageTally()
    settings = StorageSettings("qemu:x", spec_of(qemu_binary, "none"), None, 9000.0)
    asyncio.run(storage_run.run(settings, base, tally, Hours()))
    assert len(tally.rows) == 2


@pytest.mark.qemu
def test_a_qemu_that_ends_is_told(base: Path, qemu_binary: str) -> None:
    settings = StorageSettings("qemu:x", MachineSpec(qemu_binary, "no-such-machine"))
    with pytest.raises(UsageError, match="unsupported machine type"):
        asyncio.run(run(settings, base, StorageTally()))
