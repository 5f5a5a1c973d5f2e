"""savevm, loadvm and delvm over several disks, with a fault at every step of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.faults.kinds import FaultKind
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz_targets import snapshot_hazards
from loadfuzz_targets.snapshot_scenario import COMMANDS, KEPT, NAMED, Scenario, Seen
from loadfuzz_targets.snapshot_sweep import (
    MIXTURE,
    NEWER,
    NONE,
    OLD,
    Harm,
    Sweep,
    fault_at,
    harms_of,
)
from savevm.block import BlockCheckpoint
from savevm.machine import RunState
from savevm.profile import SEED, STRICT, Profile
from savevm.snapshot_info import PartialSnapshots, SnapshotListing
from savevm.snapshot_undo import Undo

PAGE = Path(__file__).parents[2] / "docs" / "snapshot-faults.md"
DISKS = pytest.mark.parametrize("disks", [2, 3])
EVERY_COMMAND = pytest.mark.parametrize("command", COMMANDS)
PROFILES = pytest.mark.parametrize("profile", [STRICT, SEED], ids=lambda profile: profile.name)


def sweep_of(command: str, disks: int = 2, profile: Profile = STRICT) -> Sweep:
    return Sweep(Scenario(profile, disks), command)


# -- every step, every disk, every fault ---------------------------------------------------


@DISKS
@EVERY_COMMAND
def test_a_strict_command_that_fails_leaves_everything_as_it_was(command: str, disks: int) -> None:
    tried = list(sweep_of(command, disks).single())
    assert len(tried) > 6 * disks
    for operation, kind, trial in tried:
        where = f"{kind} at {operation}: {trial.seen.told}"
        assert trial.struck, where
        assert trial.seen.told, f"{where}: not noticed"
        assert trial.harms == (), where


EXPECTED_STEPS = {
    f"savevm {NAMED}": {"drain", "flush", "list", "delete", "create"},
    "savevm t": {"drain", "flush", "list", "create"},
    f"loadvm {NAMED}": {"drain", "flush", "list", "goto"},
    f"delvm {NAMED}": {"list", "delete", "drain"},
}
OF_THE_STATE = {"savevm": {"write-vmstate"}, "loadvm": {"read-vmstate"}, "delvm": set[str]()}


@DISKS
@EVERY_COMMAND
def test_the_sweep_meets_every_kind_of_step_on_every_disk(command: str, disks: int) -> None:
    sweep = sweep_of(command, disks)
    for number in range(disks):
        names = {one.name for one in sweep.operations if one.disk == f"hd{number}"}
        state = OF_THE_STATE[command.split()[0]] if number == 0 else set()
        assert names == EXPECTED_STEPS[command] | state
    faulted = {(operation, kind) for operation, kind, _ in sweep.single()}
    assert faulted == {
        (operation, kind)
        for operation in sweep.operations
        for kind in (FaultKind.DISK_EIO, FaultKind.DISK_ENOSPC, FaultKind.DISK_TORN)
        if kind in operation.faults()
    }


@EVERY_COMMAND
def test_a_disk_that_cannot_be_put_back_is_named_and_harms_no_other(command: str) -> None:
    sweep = sweep_of(command)
    harms: set[Harm] = set()
    for plan, trial in sweep.putting_back():
        assert trial.struck, plan
        harms.update(trial.harms)
        bad = plan.faults[1].place.name.partition("/")[0]
        assert f"Error while putting back device '{bad}', which stays as it is" in trial.seen.told
        for number, (now, before) in enumerate(
            zip(trial.seen.disks, sweep.before.disks, strict=True)
        ):
            assert f"hd{number}" == bad or now == before, plan
        if command.startswith("loadvm"):
            assert trial.seen.memory == sweep.before.memory
        else:
            assert trial.seen.runstate is RunState.RUNNING
    assert harms
    assert harms.isdisjoint({Harm.ESCAPED, Harm.SILENT, Harm.HIDDEN, Harm.OTHERS, Harm.RUNNING})


@EVERY_COMMAND
def test_whatever_is_left_behind_the_same_command_brings_it_in_order(command: str) -> None:
    sweep = sweep_of(command)
    plans = [plan for plan, _ in sweep.putting_back()]
    plans += [FaultPlan((fault_of(f"kill@step:{n}"),)) for n in range(len(sweep.operations))]
    for plan in plans:
        assert sweep.again(plan), plan


# -- interruptions -------------------------------------------------------------------------------


@EVERY_COMMAND
def test_a_cancelled_command_leaves_everything_as_it_was(command: str) -> None:
    sweep = sweep_of(command, disks=3)
    for number, trial in sweep.cancelled():
        assert trial.struck, number
        assert trial.seen.told == "InjectedCancelError"
        assert trial.harms == (Harm.ESCAPED,), number


@EVERY_COMMAND
def test_who_is_cancelled_while_disks_are_put_back_finishes_first(command: str) -> None:
    trials = list(sweep_of(command, disks=3).cancelled_while_putting_back())
    assert trials
    for plan, trial in trials:
        assert trial.struck, plan
        assert trial.harms == (Harm.ESCAPED,), plan


@PROFILES
@DISKS
@EVERY_COMMAND
def test_a_killed_process_leaves_snapshots_that_are_whole_or_refused(
    command: str, disks: int, profile: Profile
) -> None:
    sweep = sweep_of(command, disks, profile)
    seen: list[tuple[str, ...]] = []
    for number, wreck in sweep.killed():
        assert wreck.others_load, number
        assert MIXTURE not in wreck.parts
        whole = set(wreck.parts) if len(set(wreck.parts)) == 1 else set[str]()
        assert wreck.loads == ("".join(whole) if whole != {NONE} else ""), number
        assert wreck.listed == bool(wreck.loads)
        # The seed hides what some disks lack.
        assert wreck.hidden == (profile is SEED and not whole), number
        seen.append(wreck.parts)
    assert (OLD if command.endswith(NAMED) else NONE,) * disks == seen[0]
    if command.startswith("savevm"):
        assert seen[-1] == (NEWER,) * disks
    elif command.startswith("delvm"):
        assert seen[-1] == (NONE,) * disks


def test_a_strict_savevm_is_without_the_old_snapshot_for_fewer_steps_than_the_seed() -> None:
    def writing_without(profile: Profile) -> int:
        sweep = sweep_of(f"savevm {NAMED}", profile=profile)
        wrecks = dict(sweep.killed())
        return sum(
            wrecks[number].loads == ""
            for number, operation in enumerate(sweep.operations)
            if operation.name == "write-vmstate"
        )

    assert writing_without(SEED) > 0
    assert writing_without(STRICT) == 0


# -- the sweep itself can fail -----------------------------------------------------------------


def forget(undo: Undo) -> None:
    undo._before.clear()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (f"savevm {NAMED}", {Harm.MIXED, Harm.NEITHER, Harm.LOST, Harm.JUNK}),
        ("savevm t", {Harm.MIXED, Harm.NEITHER, Harm.JUNK}),
        (f"loadvm {NAMED}", {Harm.REVERTED, Harm.RUNNING, Harm.DATA, Harm.JUNK}),
        (f"delvm {NAMED}", {Harm.MIXED, Harm.NEITHER, Harm.LOST}),
    ],
)
def test_without_putting_back_the_sweep_finds_harm(
    command: str, expected: set[Harm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Undo, "put_back", forget)
    found = {harm for _, _, trial in sweep_of(command).single() for harm in trial.harms}
    assert found == expected


def changed(seen: Seen, disk: int, change: Callable[[BlockCheckpoint], BlockCheckpoint]) -> Seen:
    disks = list(seen.disks)
    disks[disk] = change(disks[disk])
    return replace(seen, disks=tuple(disks))


def without(name: str) -> Callable[[BlockCheckpoint], BlockCheckpoint]:
    return lambda disk: replace(
        disk, snapshots=tuple(one for one in disk.snapshots if one.info.name != name)
    )


def test_every_harm_is_told_apart() -> None:
    sweep = sweep_of(f"loadvm {NAMED}")
    before, after = sweep.before, sweep.after
    failed = replace(before, told="refused")
    other = sweep_of("savevm t")
    assert harms_of(before, before, before) == harms_of(after, before, after) == ()
    assert harms_of(failed, before, after) == ()
    then, junk = after.disks[1].disk, after.disks[0].vmstate
    torn = before.disks[0].disk.copy()
    torn.write(0, b"th")
    cases: dict[Harm, Seen] = {
        Harm.ESCAPED: replace(failed, clean=False),
        Harm.SILENT: replace(failed, told=""),
        Harm.MIXED: changed(failed, 1, without(KEPT)),
        Harm.HIDDEN: replace(failed, listing=SnapshotListing(before.listing.snapshots[1:])),
        Harm.NEITHER: changed(changed(failed, 0, without(NAMED)), 1, without(NAMED)),
        Harm.LOST: changed(failed, 1, without(NAMED)),
        Harm.OTHERS: changed(changed(failed, 0, without(KEPT)), 1, without(KEPT)),
        Harm.STOPPED: replace(failed, runstate=RunState.RESTORE_VM),
        Harm.REVERTED: changed(failed, 1, lambda disk: replace(disk, disk=then)),
        Harm.HALF: replace(failed, memory="neither"),
        Harm.DATA: changed(failed, 1, lambda disk: replace(disk, disk=torn)),
        Harm.RUNNING: replace(failed, memory=after.memory),
        Harm.JUNK: changed(failed, 0, lambda disk: replace(disk, vmstate=junk)),
    }
    for harm, seen in cases.items():
        assert harm in harms_of(seen, before, after), harm
    lacking = changed(
        other.after,
        1,
        lambda disk: replace(
            disk,
            snapshots=(*disk.snapshots[:-1], replace(disk.snapshots[-1], disk=torn)),
        ),
    )
    assert Harm.LACKS in harms_of(lacking, other.before, other.after)
    assert {*cases, Harm.LACKS} == set(Harm)


def test_a_list_that_shows_what_is_not_there_is_told_too() -> None:
    sweep = sweep_of(f"delvm {NAMED}")
    kept = sweep.before.listing.snapshots[0]
    lying = SnapshotListing(
        sweep.before.listing.snapshots, partial=(PartialSnapshots("hd1", (kept,)),)
    )
    seen = replace(sweep.before, listing=lying)
    assert harms_of(seen, sweep.before, sweep.before) == (Harm.HIDDEN,)


def test_the_same_sweep_gives_the_same_trials() -> None:
    def told() -> list[object]:
        return [
            (str(operation), kind, trial.seen.told, trial.harms)
            for operation, kind, trial in sweep_of(f"savevm {NAMED}", profile=SEED).single()
        ]

    assert told() == told()


def test_a_scenario_is_rewound_before_each_command() -> None:
    scenario = Scenario(STRICT, 2)
    first, _ = scenario.run(f"loadvm {NAMED}")
    scenario.run(f"delvm {NAMED}")
    again, storage = scenario.run(f"loadvm {NAMED}")
    assert again == first
    assert again.told == ""
    assert fault_at(storage.operations[0], FaultKind.DISK_TORN).amount == 2


# -- the page ---------------------------------------------------------------------------------


def test_the_page_has_the_tables_as_they_are() -> None:
    # Print them again with: python -m loadfuzz_targets.snapshot_hazards
    assert snapshot_hazards.tables() in PAGE.read_text()
