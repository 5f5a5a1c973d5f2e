"""Faulty migrations between two real QEMUs, and the oracle that judges them."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.faults.kinds import CHANGES_BYTES, FaultKind, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan, fault_of
from loadfuzz.findings import Violation
from loadfuzz.qemu import (
    cancelling,
    confirming,
    instance,
    migration,
    migration_plans,
    migration_run,
    proxy,
    section_watch,
)
from loadfuzz.qemu.asking import FailedError
from loadfuzz.qemu.cancelling import Cancel
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.migration import Attempt, Outcome, Settled, Side, careful, migrate
from loadfuzz.qemu.migration_plans import Shape, draw
from loadfuzz.qemu.migration_run import Row, Settings, Tally, run
from loadfuzz.qemu.monitor import Reply, encode
from loadfuzz.qemu.one_runner import (
    MEANINGS,
    PROMISES,
    Hazard,
    hazard_of,
    judge,
    judge_retry,
)
from loadfuzz.qemu.peers import READY_MAX, Peer, Peers, Role, peers
from loadfuzz.qemu.profiles import profiles
from loadfuzz.qemu.proxy import Ended, Passed
from loadfuzz.repro.folder import read_finding, read_manifest
from loadfuzz.rng import Rng

MICROVM = profiles()["microvm"].spec()
BOTH = (Role.SOURCE, Role.DESTINATION)


def plan_of(text: str) -> FaultPlan:
    return FaultPlan(tuple(fault_of(word) for word in text.split()))


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place of the test's own instead of shared memory; empty at the end, and no QEMU left."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr(instance, "SHARED_MEMORY", folder)
    yield folder
    assert list(folder.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


def spec_of(binary: str, name: str) -> MachineSpec:
    return replace(profiles()[name].spec(), binary=binary)


def attempts(
    spec: MachineSpec,
    base: Path,
    *texts: str,
    operator: Callable[[Side, Side], Sequence[Role]] = careful,
    autostart: bool = False,
) -> list[Attempt]:
    """One source that migrates again and again, as far as it lives."""

    async def main() -> list[Attempt]:
        found: list[Attempt] = []
        async with peers(spec, base, autostart=autostart, spares=0) as crew:
            source = await crew.take(Role.SOURCE)
            for text in texts:
                destination = await crew.take(Role.DESTINATION)
                crew.refill()
                plan = plan_of(text)
                found.append(
                    await migrate(source, destination, plan, operator=operator, autostart=autostart)
                )
                await crew.give_back(destination)
                if found[-1].settled.source == "postmigrate":
                    await source.ask(encode("cont"))
        return found

    return asyncio.run(main())


# -- real migrations -------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["none", "microvm", "pc"])
def test_without_faults_the_guest_goes_over(qemu_binary: str, name: str, base: Path) -> None:
    (attempt,) = attempts(spec_of(qemu_binary, name), base, "")
    assert attempt.source == Side(Outcome.COMPLETED, "postmigrate")
    assert (attempt.destination.outcome, attempt.destination.state) == ("completed", "paused")
    assert attempt.settled.running == (Role.DESTINATION,)
    assert attempt.passed.whole_state
    assert attempt.passed.delivered == len(attempt.stream)
    assert judge(attempt) == ()
    assert hazard_of(attempt) is None


@pytest.mark.qemu
def test_after_each_failure_the_source_runs_on_and_migrates_again(
    qemu_binary: str, base: Path
) -> None:
    faulty = ("reset@section:1", "close@byte:9000", "cancel@step:8", "kill@step:9",
              "stall@byte:3000=6000")  # fmt: skip
    texts = [text for each in faulty for text in (each, "")]
    found = attempts(spec_of(qemu_binary, "microvm"), base, *texts[:-1])
    for attempt in found[::2]:
        assert attempt.struck != ()
        assert attempt.source.outcome in (Outcome.FAILED, Outcome.CANCELLED), attempt.plan
        assert attempt.source.runs
        assert attempt.destination.outcome in (Outcome.FAILED, Outcome.KILLED)
        assert attempt.settled.running == (Role.SOURCE,)
    assert found[4].source.outcome is Outcome.CANCELLED
    for before, attempt in zip(found[::2], found[1::2], strict=False):
        assert judge_retry(before, attempt) == ()
    assert [judge(attempt) for attempt in found[::2]] == [()] * len(found[::2])


@pytest.mark.qemu
def test_a_fault_at_a_section_strikes_a_live_stream_there(qemu_binary: str, base: Path) -> None:
    found = attempts(spec_of(qemu_binary, "microvm"), base, "", "close@section:5")
    passed = found[1].passed
    assert passed.delivered == passed.sections[5]
    assert found[1].stream[passed.sections[5]] == 4


@pytest.mark.qemu
def test_a_source_is_done_when_nobody_reads(qemu_binary: str, base: Path) -> None:
    (attempt,) = attempts(spec_of(qemu_binary, "microvm"), base, "half-close@byte:5000")
    assert attempt.source.state == "postmigrate"
    assert attempt.destination.outcome is Outcome.FAILED
    assert "load of migration failed" in attempt.destination.said
    assert attempt.settled.running == (Role.SOURCE,)
    assert judge(attempt) == ()
    assert hazard_of(attempt) is Hazard.SOURCE_DONE_FIRST


@pytest.mark.qemu
@pytest.mark.parametrize("autostart", [False, True], ids=["paused", "autostart"])
def test_a_destination_is_done_before_the_last_byte(
    qemu_binary: str, autostart: bool, base: Path
) -> None:
    spec = spec_of(qemu_binary, "microvm")
    (whole,) = attempts(spec, base, "")
    inside_vmdesc = whole.passed.state_end + 1000
    (attempt,) = attempts(spec, base, f"close@byte:{inside_vmdesc}", autostart=autostart)
    assert attempt.source.outcome is Outcome.FAILED
    assert attempt.destination.outcome is Outcome.COMPLETED
    assert attempt.destination.runs is autostart
    assert attempt.settled.running == (Role.SOURCE,)
    assert judge(attempt) == ()
    expected = Hazard.BOTH_RAN if autostart else Hazard.DESTINATION_DONE_FIRST
    assert hazard_of(attempt) is expected


@pytest.mark.qemu
def test_a_killed_source_takes_the_guest_with_it_unless_it_has_gone_over(
    qemu_binary: str, base: Path
) -> None:
    spec = spec_of(qemu_binary, "microvm")
    (early,) = attempts(spec, base, "kill@step:4")
    (late,) = attempts(spec, base, "kill@step:4000")
    assert (early.source.outcome, early.settled.running) == (Outcome.KILLED, ())
    assert hazard_of(early) is Hazard.GUEST_KILLED
    assert (late.source.outcome, late.settled.running) == (Outcome.KILLED, (Role.DESTINATION,))
    assert judge(early) == judge(late) == ()


@pytest.mark.qemu
def test_a_cancel_strikes_when_the_source_has_accepted_it(qemu_binary: str, base: Path) -> None:
    early, late = attempts(spec_of(qemu_binary, "microvm"), base, "cancel@step:8",
                           "cancel@step:4000")  # fmt: skip
    assert [cancel.accepted for cancel in early.cancels] == [True]
    assert [str(fault) for fault in early.struck] == ["cancel@step:8"]
    assert early.source.outcome is Outcome.CANCELLED
    assert [(cancel.state, cancel.late) for cancel in late.cancels] == [("completed", True)]
    assert late.struck == ()
    assert hazard_of(late) is Hazard.CANCEL_TOO_LATE
    assert judge(early) == judge(late) == ()


@pytest.mark.qemu
def test_a_cancel_that_is_answered_late_is_heard_all_the_same(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_HOLD_S", 0.0)
    (attempt,) = attempts(spec_of(qemu_binary, "microvm"), base, "cancel@step:8")
    (cancel,) = attempt.cancels
    assert cancel.accepted
    assert attempt.struck == (cancel.fault,)
    assert judge(attempt) == ()


@pytest.mark.qemu
def test_a_source_that_ignores_a_cancel_rings(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "_CANCEL", encode("query-version"))
    (attempt,) = attempts(spec_of(qemu_binary, "microvm"), base, "cancel@step:8")
    assert attempt.struck == ()
    assert [one.signature for one in judge(attempt)] == ["cancel:ignored"]


@pytest.mark.qemu
def test_a_kill_of_what_has_ended_by_itself_has_not_struck(qemu_binary: str, base: Path) -> None:
    # The destination has refused its stream when the kill comes, behind the last byte.
    monitor_ended: list[bool] = []

    async def main() -> Attempt:
        async with peers(spec_of(qemu_binary, "microvm"), base, spares=0) as crew:
            source = await crew.take(Role.SOURCE)
            destination = await crew.take(Role.DESTINATION)
            slay = migration._slay

            async def patient(peer: Peer) -> bool:
                monitor_ended.append(await peer.process.wait(10.0) is not None)
                return await slay(peer)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(migration, "_slay", patient)
                plan = plan_of("half-close@byte:5000 kill@step:40001")
                return await migrate(source, destination, plan)

    attempt = asyncio.run(main())
    assert monitor_ended[0]
    assert [str(fault) for fault in attempt.struck] == ["half-close@byte:5000"]
    assert attempt.destination.outcome is Outcome.FAILED
    assert judge(attempt) == ()


@pytest.mark.qemu
def test_a_migration_that_does_not_converge_is_a_value_of_its_own(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "SENT_MAX", 9000)
    spec = spec_of(qemu_binary, "microvm")
    (attempt,) = attempts(spec, base, "")
    assert attempt.passed.ended is Ended.ENDLESS
    assert attempt.source == Side(Outcome.FAILED, "running", attempt.source.said)
    assert judge(attempt) == judge_retry(BROKEN, attempt) == ()
    assert hazard_of(attempt) is Hazard.NOT_CONVERGED
    with pytest.raises(UsageError, match="does not come to the end of its migration within 60 s"):
        asyncio.run(run(Settings("qemu:microvm", spec, 1), base, Tally()))


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("operator", "path"),
    [
        (lambda source, destination: BOTH, "both-run"),
        (lambda source, destination: (), "lost"),
    ],
    ids=["both", "nobody"],
)
def test_an_operator_who_gets_it_wrong_is_caught(
    qemu_binary: str,
    operator: Callable[[Side, Side], Sequence[Role]],
    path: str,
    base: Path,
) -> None:
    (attempt,) = attempts(spec_of(qemu_binary, "none"), base, "", operator=operator)
    assert [(one.oracle, one.path) for one in judge(attempt)] == [("one-runner", path)]


@pytest.mark.qemu
def test_a_cancelled_run_leaves_no_process(qemu_binary: str, base: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.7):
            settings = Settings("qemu:pc", spec_of(qemu_binary, "pc"), 1000)
            await run(settings, base, Tally())

    with pytest.raises(TimeoutError):
        asyncio.run(main())


# -- the oracle, on what never was -----------------------------------------------------------------

GOOD = Attempt(
    plan=NO_FAULTS,
    autostart=False,
    passed=Passed(Ended.WHOLE, (), 1000, 1000, (8, 80), 900),
    stream=bytes(1000),
    source=Side(Outcome.COMPLETED, "postmigrate"),
    destination=Side(Outcome.COMPLETED, "paused"),
    settled=Settled((Role.DESTINATION,), "postmigrate", "running"),
)
RESET = fault_of("reset@byte:500")
BROKEN = replace(
    GOOD,
    plan=FaultPlan((RESET,)),
    passed=Passed(Ended.BROKEN, (RESET,), 600, 500, (8, 80), 0),
    source=Side(Outcome.FAILED, "running"),
    destination=Side(Outcome.FAILED, "", "load of migration failed: Input/output error"),
    settled=Settled((Role.SOURCE,), "running", ""),
)
DEAD = Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGSEGV", "", ()))
HANGING = Execution(ExitKind.TIMED_OUT, Depth.NOTHING, escape=Escape("hang", "busy", ("a:b:0",)))


def struck(attempt: Attempt, *texts: str, **changes: object) -> Attempt:
    """The same with other faults that happened."""
    faults = tuple(fault_of(text) for text in texts)
    passed = replace(attempt.passed, struck=faults, **changes)  # type: ignore[arg-type]
    return replace(attempt, plan=FaultPlan(faults), passed=passed)


def test_what_went_well_or_failed_as_it_should_breaks_no_promise() -> None:
    assert judge(GOOD) == judge(BROKEN) == ()
    assert hazard_of(GOOD) is hazard_of(BROKEN) is None
    assert judge_retry(BROKEN, GOOD) == ()


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (replace(BROKEN, settled=Settled(BOTH, "running", "running")), "one-runner:both-run"),
        (replace(BROKEN, settled=Settled((), "postmigrate", "")), "one-runner:lost"),
        (replace(GOOD, destination=Side(Outcome.COMPLETED, "running")), "one-runner:untold"),
        (
            replace(GOOD, source=Side(Outcome.COMPLETED, "running"),
                    destination=Side(Outcome.COMPLETED, "running"), autostart=True),
            "one-runner:both-ran",
        ),
        (replace(GOOD, source=Side(Outcome.COMPLETED, "running")), "one-runner:source-runs"),
        (replace(BROKEN, source=Side(Outcome.FAILED, "paused")), "one-runner:source-stands"),
        (
            replace(BROKEN, destination=Side(Outcome.FAILED, "running"), autostart=True,
                    source=Side(Outcome.COMPLETED, "postmigrate")),
            "one-runner:refused-runs",
        ),
        (replace(BROKEN, source=Side(Outcome.DIED, "", "boom", DEAD)),
         "clean-error:source: SIGSEGV"),
        (replace(BROKEN, destination=Side(Outcome.DIED, "", "boom", DEAD)),
         "clean-error:destination: SIGSEGV"),
        (replace(BROKEN, destination=Side(Outcome.HANGS, "", "", HANGING)),
         "no-hang:destination: a:b:#"),
        (replace(BROKEN, passed=replace(BROKEN.passed, ended=Ended.SILENT)), "no-hang:silent"),
        (struck(replace(BROKEN, destination=GOOD.destination), "reset@byte:500"),
         "truncation:incomplete"),
        (struck(BROKEN, "stall@byte:5=100"), "must-not-matter:failed/failed"),
        (struck(BROKEN), "must-not-matter:failed/failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_promise_that_is_broken_rings(attempt: Attempt, expected: str) -> None:
    violations = judge(attempt)
    assert expected in [violation.signature for violation in violations]
    assert {violation.oracle for violation in violations} <= {name for name, _ in PROMISES}


CANCEL = fault_of("cancel@step:3")


@pytest.mark.parametrize(
    ("attempt", "signatures"),
    [
        (replace(BROKEN, cancels=(Cancel(CANCEL, "cancelling"),)), []),
        (replace(BROKEN, cancels=(Cancel(CANCEL, "failed"),)), []),
        (replace(GOOD, cancels=(Cancel(CANCEL, "completed"),)), []),
        (replace(GOOD, cancels=(Cancel(CANCEL, "cancelling"),)), ["cancel:completed"]),
        (replace(GOOD, cancels=(Cancel(CANCEL, "active"),)), ["cancel:ignored"]),
        (replace(BROKEN, cancels=(Cancel(CANCEL, "device"),)), ["cancel:ignored"]),
        (replace(BROKEN, cancels=(Cancel(CANCEL, "cancelled", "no"),)), ["cancel:ignored"]),
    ],
)
def test_a_cancel_is_accepted_or_too_late_and_ends_what_it_was_for(
    attempt: Attempt, signatures: list[str]
) -> None:
    assert [violation.signature for violation in judge(attempt)] == signatures


@pytest.mark.parametrize(
    "attempt",
    [
        replace(BROKEN, source=Side(Outcome.NO_MEMORY), settled=Settled((), "", "")),
        replace(GOOD, destination=Side(Outcome.NO_MEMORY), settled=Settled((), "", "")),
    ],
    ids=["source", "destination"],
)
def test_of_a_side_that_lacks_memory_nothing_is_said(attempt: Attempt) -> None:
    assert judge(attempt) == judge_retry(BROKEN, attempt) == ()
    assert hazard_of(attempt) is None


def test_a_source_that_does_not_migrate_again_rings() -> None:
    failing = struck(BROKEN, "cancel@step:3")
    assert [one.oracle for one in judge_retry(BROKEN, failing)] == ["retry"]
    died = replace(BROKEN, destination=Side(Outcome.DIED, "", "boom", DEAD))
    assert "clean-error" in [one.oracle for one in judge_retry(BROKEN, died)]


@pytest.mark.parametrize(
    ("attempt", "hazard"),
    [
        (replace(BROKEN, source=GOOD.source), Hazard.SOURCE_DONE_FIRST),
        (struck(replace(GOOD, source=BROKEN.source, settled=BROKEN.settled), "reset@byte:950",
                delivered=950), Hazard.DESTINATION_DONE_FIRST),
        (struck(replace(GOOD, source=BROKEN.source, settled=BROKEN.settled, autostart=True,
                        destination=Side(Outcome.COMPLETED, "running")), "reset@byte:950",
                delivered=950), Hazard.BOTH_RAN),
        (struck(replace(BROKEN, source=Side(Outcome.KILLED), settled=Settled((), "", "")),
                "kill@step:2"), Hazard.GUEST_KILLED),
        (struck(GOOD, "bit-flip@byte:70=1"), Hazard.DAMAGE_UNNOTICED),
        (struck(replace(GOOD, source=BROKEN.source, settled=BROKEN.settled),
                "zero-tail@byte:80", delivered=400, state_end=0), Hazard.DAMAGE_ENDED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_known_of_precopy_is_a_hazard_and_no_violation(
    attempt: Attempt, hazard: Hazard
) -> None:
    assert judge(attempt) == ()
    assert hazard_of(attempt) is hazard


def test_a_killed_source_excuses_only_a_destination_without_the_guest() -> None:
    settled = Settled((Role.DESTINATION,), "", "paused")
    lost = struck(replace(GOOD, source=Side(Outcome.KILLED), settled=settled), "kill@step:400")
    assert [one.signature for one in judge(lost)] == ["one-runner:lost"]
    assert judge(struck(lost, "kill@step:400", "kill@step:401")) == ()


def test_both_that_run_before_the_state_was_over_are_no_known_hazard() -> None:
    early = replace(BROKEN, autostart=True, destination=Side(Outcome.COMPLETED, "running"))
    assert "one-runner:both-ran" in [one.signature for one in judge(early)]
    assert hazard_of(early) is None


def test_every_hazard_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Hazard)


@pytest.mark.parametrize(
    ("source", "destination", "told"),
    [
        (Outcome.COMPLETED, Outcome.COMPLETED, Role.DESTINATION),
        (Outcome.KILLED, Outcome.COMPLETED, Role.DESTINATION),
        (Outcome.FAILED, Outcome.COMPLETED, Role.SOURCE),
        (Outcome.CANCELLED, Outcome.COMPLETED, Role.SOURCE),
        (Outcome.COMPLETED, Outcome.FAILED, Role.SOURCE),
        (Outcome.COMPLETED, Outcome.HANGS, Role.SOURCE),
    ],
)
def test_a_careful_operator_moves_only_what_has_arrived_and_does_not_run_on(
    source: Outcome, destination: Outcome, told: Role
) -> None:
    assert careful(Side(source), Side(destination)) == (told,)


# -- many ------------------------------------------------------------------------------------------

SHAPE = Shape(100_000, 20, 90_000)


def test_plans_depend_on_the_seed_alone_and_can_all_be_carried_out() -> None:
    plans = [draw(SHAPE, Rng(7).child(f"migration/{number}")) for number in range(500)]
    assert plans == [draw(SHAPE, Rng(7).child(f"migration/{number}")) for number in range(500)]
    kinds: Counter[FaultKind] = Counter()
    places: Counter[PlaceKind] = Counter()
    for plan in plans:
        plan.check()
        kinds.update(fault.kind for fault in plan.faults)
        places.update(fault.place.kind for fault in plan.faults)
        assert 1 <= len(plan.faults) <= 2
    assert set(places) == {PlaceKind.BYTE, PlaceKind.READ, PlaceKind.SECTION, PlaceKind.STEP}
    assert len(kinds) == 14
    assert kinds[FaultKind.KILL] > kinds[FaultKind.STALL]
    assert {fault.place.number % 2 for plan in plans for fault in plan.faults
            if fault.kind is FaultKind.KILL} == {0, 1}  # fmt: skip


@pytest.mark.qemu
def test_random_migrations_keep_every_promise(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = []
    tally = Tally(tell=rows.append)
    # Streams that are whole, so that no loader is to be blamed.
    monkeypatch.setattr(
        migration_plans, "_KINDS", sorted(set(migration_plans._KINDS) - CHANGES_BYTES)
    )
    settings = Settings("qemu:microvm", spec_of(qemu_binary, "microvm"), 20, seed=3)
    asyncio.run(run(settings, base, tally))
    assert [row.number for row in rows] == list(range(20))
    assert rows == tally.rows
    assert tally.findings == {}
    assert tally.skipped == []
    assert sum(tally.counts().values()) == 20
    failed = [row for row in rows if row.source in ("failed", "cancelled")]
    assert failed == [row for row in rows if row.retried] != []
    assert len(tally.counts()) > 2
    assert all(len(row.running) <= 1 for row in rows)


@pytest.mark.qemu
def test_what_broke_a_promise_is_kept_with_its_plan(
    qemu_binary: str, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found"
    tally = Tally()
    settings = Settings("qemu:none", spec_of(qemu_binary, "none"), 3, out=lambda: out,
                        plan=plan_of("stall@byte:9=50"), operator=lambda *_: BOTH)  # fmt: skip
    asyncio.run(run_without_rehearsal(settings, base, tally))
    ((signature, (finding, place)),) = tally.findings.items()
    assert signature == "one-runner:both-run"
    assert finding.reliability == (3, 3)
    assert finding.input.faults == settings.plan
    assert [row.violations for row in tally.rows] == [(signature,)] * 3
    folder = Path(place)
    assert folder.parent == out / "findings"
    assert read_manifest(folder).signature == signature
    account = (folder / "migration.txt").read_text()
    assert account.startswith("loadfuzz migrate qemu:none --plan stall@byte:9=50 --count 3\n")
    assert read_finding(folder).again == account.partition("\n")[0]
    assert "source       completed, postmigrate" in account
    assert (folder / "input").read_bytes().startswith(b"QEVM")
    assert json.loads((folder / "finding.json").read_bytes())["oracle"] == "one-runner"


@pytest.mark.qemu
def test_a_side_that_lacks_memory_when_it_is_told_to_run_is_no_verdict(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Peer.ask

    async def dying(self: Peer, *commands: bytes) -> list[Reply]:
        if commands[0] == encode("cont"):
            raise FailedError("")
        return await ask(self, *commands)

    async def hungry(*_: object) -> Side:
        return Side(Outcome.NO_MEMORY)

    monkeypatch.setattr(Peer, "ask", dying)
    monkeypatch.setattr(migration, "_ended", hungry)
    with pytest.raises(InfraError, match="ended over cont for want of memory"):
        attempts(spec_of(qemu_binary, "none"), base, "")


@pytest.mark.qemu
def test_a_migration_that_lacks_memory_is_skipped_and_counted(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def hungry(*arguments: object, **more: object) -> Attempt:
        nonlocal calls
        calls += 1
        attempt = await migrate(*arguments, **more)  # type: ignore[arg-type]
        return attempt if calls != 2 else replace(attempt, source=Side(Outcome.NO_MEMORY))

    monkeypatch.setattr(migration_run, "migrate", hungry)
    tally = Tally()
    settings = Settings("qemu:none", spec_of(qemu_binary, "none"), 2, plan=NO_FAULTS)
    asyncio.run(run(settings, base, tally))
    assert [row.number for row in tally.rows] == [1]
    assert len(tally.skipped) == 1
    assert "want of memory" in tally.skipped[0]
    assert tally.findings == {}


@pytest.mark.qemu
@pytest.mark.parametrize("trouble", [InfraError, UsageError, asyncio.CancelledError])
def test_what_was_found_is_kept_when_trying_again_fails(
    qemu_binary: str,
    trouble: type[BaseException],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, taken = Peers.take, 0

    async def troubled(self: Peers, role: Role) -> Peer:
        nonlocal taken
        taken += role is Role.SOURCE
        # The first is for the rehearsal and the finding, the second to try that again.
        if taken == 3 and role is Role.SOURCE:
            raise trouble("planted")
        return await take(self, role)

    monkeypatch.setattr(Peers, "take", troubled)
    tally = Tally()
    out = tmp_path / "found"
    settings = Settings("qemu:none", spec_of(qemu_binary, "none"), 1, out=lambda: out,
                        plan=plan_of("stall@byte:9=50"), operator=lambda *_: BOTH)  # fmt: skip
    if trouble is asyncio.CancelledError:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run_without_rehearsal(settings, base, tally))
    else:
        asyncio.run(run_without_rehearsal(settings, base, tally))
    assert [row.violations for row in tally.rows] == [("one-runner:both-run",)]
    ((finding, place),) = tally.findings.values()
    assert finding.reliability == ((1, 1) if taken == 3 else (2, 2))
    assert read_manifest(Path(place)).signature == "one-runner:both-run"


def violation(path: str) -> Violation:
    return Violation("planted", "", "", "", path)


def test_each_of_several_is_kept_once_even_when_one_cannot_be() -> None:
    kept: list[tuple[str, tuple[int, int]]] = []
    answers: Iterator[Sequence[Violation] | InfraError] = iter(
        [(violation("b"),), InfraError("planted"), (violation("a"), violation("b"))]
    )

    async def again() -> Sequence[Violation]:
        answer = next(answers)
        if isinstance(answer, InfraError):
            raise answer
        return answer

    def keep(one: Violation, reliability: tuple[int, int]) -> None:
        kept.append((one.path, reliability))
        if one.path == "a":
            raise InfraError("the disk is full")

    both = (violation("a"), violation("b"))
    with pytest.raises(InfraError, match="the disk is full"):
        asyncio.run(confirming.confirm(both, again, lambda one, other: one == other, keep))
    assert kept == [("a", (1, 2)), ("b", (2, 2))]


def test_only_what_is_new_is_tried_again_and_each_once() -> None:
    every = [violation("a"), violation("b1"), violation("b2"), violation("c"), violation("d")]
    fresh = confirming.news(every, {"planted:a": ""}, 2)
    assert [one.path for one in fresh] == ["b1", "c"]
    assert confirming.news(every, (), 0) == ()


async def run_without_rehearsal(settings: Settings, base: Path, tally: Tally) -> None:
    """As run() with an operator who does better while it is looked whether it goes at all."""
    calls = 0
    planted = settings.operator

    def operator(source: Side, destination: Side) -> Sequence[Role]:
        nonlocal calls
        calls += 1
        return careful(source, destination) if calls == 1 else planted(source, destination)

    await run(replace(settings, operator=operator), base, tally)


@pytest.mark.qemu
def test_a_machine_that_cannot_migrate_is_no_finding(qemu_binary: str, base: Path) -> None:
    settings = Settings("qemu:none", spec_of(qemu_binary, "none"), 3, operator=lambda *_: ())
    with pytest.raises(UsageError, match="does not migrate even when nothing goes wrong"):
        asyncio.run(run(settings, base, Tally()))


@pytest.mark.qemu
def test_a_machine_whose_state_has_no_known_end_is_refused(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(section_watch, "RECORD_MAX", 100)
    settings = Settings("qemu:none", spec_of(qemu_binary, "none"), 3)
    with pytest.raises(UsageError, match="where the state of qemu:none ends cannot be told"):
        asyncio.run(run(settings, base, Tally()))


def test_a_binary_that_is_none_is_told(base: Path, tmp_path: Path) -> None:
    spec = replace(MICROVM, binary=str(tmp_path / "no-such-qemu"))
    with pytest.raises(UsageError, match="name a qemu-system binary"):
        asyncio.run(run(Settings("qemu:microvm", spec, 3), base, Tally()))


@pytest.mark.qemu
def test_a_machine_that_does_not_start_is_told_in_qemus_words(qemu_binary: str, base: Path) -> None:
    spec = MachineSpec(qemu_binary, "no-such-machine")
    with pytest.raises(UsageError, match="unsupported machine type"):
        asyncio.run(run(Settings("qemu:x", spec, 3), base, Tally()))


@pytest.mark.qemu
def test_a_source_that_is_killed_from_outside_is_no_verdict(qemu_binary: str, base: Path) -> None:
    async def main() -> None:
        async with peers(spec_of(qemu_binary, "none"), base, ready=1, spares=0) as crew:
            source = await crew.take(Role.SOURCE)
            destination = await crew.take(Role.DESTINATION)
            os.kill(source.process.pid, 9)
            await migrate(source, destination, NO_FAULTS)

    with pytest.raises(InfraError):
        asyncio.run(main())


@pytest.mark.qemu
def test_destinations_wait_ahead_and_each_is_used_once(qemu_binary: str, base: Path) -> None:
    async def main() -> None:
        async with peers(spec_of(qemu_binary, "none"), base, ready=2, spares=1) as crew:
            crew.refill()
            first = await crew.take(Role.DESTINATION)
            crew.refill()
            assert len(psutil.Process().children()) == 4
            state = (await first.ask(encode("query-status")))[0].value
            assert isinstance(state, dict)
            assert state["status"] == "inmigrate"
            source = await crew.take(Role.SOURCE)
            state = (await source.ask(encode("query-status")))[0].value
            assert isinstance(state, dict)
            assert state["status"] == "running"
            second = await crew.take(Role.DESTINATION)
            assert second.process.pid != first.process.pid
            await crew.give_back(first)

    asyncio.run(main())


def test_a_nonsensical_number_of_processes_is_refused(base: Path) -> None:
    async def main() -> None:
        async with peers(MICROVM, base, ready=READY_MAX + 1):
            pass

    with pytest.raises(UsageError, match="use 0 to"):
        asyncio.run(main())
