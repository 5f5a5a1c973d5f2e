"""Live migration as a campaign target: stories as inputs, promises, and bugs that break them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.abc import Subject, TakesFaults, Target, TellsViolations
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.kinds import Expectation, FaultKind, Layer
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.inputs import WHOLE, Delivery, Input
from loadfuzz.oracles import ALL
from loadfuzz.plugins import load_target
from loadfuzz.simulation.promises import PROMISES
from loadfuzz.simulation.search import search
from loadfuzz_targets.migration import PLAIN, TARGET, told
from loadfuzz_targets.migration_bugs import BUGS, MigrationBug, bug_named
from loadfuzz_targets.migration_subject import MigrationSubject
from savevm.errors import LoadError

STORIES = 6000
"""Random stories in which each bug must be found; the slowest took 1200 (ten seconds)."""
EACH = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(5.0) as dog:
        yield dog


def plan_of(*texts: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)))


def run(stream: bytes, plan: FaultPlan, subject: MigrationSubject | None = None) -> str:
    """The refusal, or ``""``."""
    try:
        (subject or MigrationSubject(PLAIN)).load_under(stream, WHOLE, plan, None)
    except LoadError as error:
        return str(error)
    return ""


# -- as a target -----------------------------------------------------------------------------------


def test_it_is_found_by_its_name_and_its_bugs_by_theirs() -> None:
    assert load_target("migration") == TARGET
    found = load_target("migration:lost-page")
    assert found.name == "migration:lost-page"
    assert "loses dirty pages" in found.summary
    assert len({bug.name for bug in BUGS}) == len(BUGS) == len(TARGET.variants())
    with pytest.raises(KeyError):
        TARGET.variant("no-such-bug")


def test_its_subject_keeps_every_optional_promise() -> None:
    target: Target = TARGET
    subject: Subject = target.open()
    assert isinstance(subject, TakesFaults)
    assert isinstance(subject, TellsViolations)
    assert subject.layers == {Layer.TRANSPORT, Layer.PROCESS}


@pytest.mark.parametrize("seed", list(TARGET.seeds()), ids=lambda seed: seed.name)
def test_no_oracle_rings_on_a_seed(seed: object, watchdog: Watchdog) -> None:
    stream = getattr(seed, "stream")  # noqa: B009
    executor = InProcessExecutor(TARGET, watchdog)
    trial = executor.execute(Input(stream))
    assert trial.execution.kind is ExitKind.ACCEPTED
    assert [oracle.name for oracle in ALL if oracle.judge(trial) is not None] == []


@settings(max_examples=40, deadline=None)
@given(stream=st.binary(max_size=120))
def test_every_byte_string_is_accepted_or_refused_and_breaks_no_promise(stream: bytes) -> None:
    subject = MigrationSubject(PLAIN)
    refused = run(stream, FaultPlan(), subject)
    assert subject.violations() == ()
    assert bool(subject.digest()) is (not refused)
    assert subject.check_invariants() == []
    subject.step(20)
    assert subject.check_invariants() == []
    subject.reset()
    assert (subject.digest(), subject.violations(), subject.save()) == ("", (), PLAIN)


def test_what_was_accepted_is_saved_as_it_was_told_and_loads_the_same() -> None:
    subject, other = TARGET.open(), TARGET.open()
    stream = list(TARGET.seeds())[2].stream
    subject.load(stream, WHOLE, None)
    other.load(subject.save(), Delivery((3, 1)), None)
    assert subject.save() == stream
    assert subject.digest() == other.digest() != ""


def test_a_story_is_told_in_words() -> None:
    text = told(PLAIN, plan_of("reset@byte:9000"))
    assert text.startswith("ram: reset@byte:9000\n")
    assert "destination 1: qemu_loadvm_state_section" in text
    assert text.endswith("(offset 0x2328)"), text[-200:]
    assert told(PLAIN).endswith("accepted")


# -- faults of the input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reset@byte:9000", "source failed"),
        ("close@byte:9000", "source failed"),
        ("eio@byte:9000", "source failed"),
        ("eio@write:2", "source failed"),
        ("cancel@step:3", "source cancelled"),
        ("kill@step:4", "destination killed"),
        ("stall@byte:9000=6000", "source"),
    ],
)
def test_faults_of_the_input_strike_the_first_migration(fault: str, said: str) -> None:
    subject = MigrationSubject(PLAIN)
    refused = run(PLAIN, plan_of(fault), subject)
    assert said in refused
    assert {struck.kind for struck in subject.struck()} >= {fault_of(fault).kind}
    assert subject.violations() == ()
    story = subject.story()
    assert story is not None
    assert story.endings[-1].both


def test_a_silence_is_not_said_to_be_harmless_since_the_guest_goes_on() -> None:
    subject = MigrationSubject(PLAIN)
    assert run(PLAIN, plan_of("stall@byte:9000=30", "short-read@read:2=10"), subject) == ""
    struck = subject.struck()
    assert {fault.kind for fault in struck} == {FaultKind.STALL, FaultKind.SHORT_READ}
    assert {fault.expectation for fault in struck} == {Expectation.MUST_NOT_HARM}


def test_a_piece_that_is_held_back_to_the_end_did_strike_though_it_changed_nothing() -> None:
    subject = MigrationSubject(PLAIN)
    run(PLAIN, plan_of("reorder@byte:0=65535"), subject)
    assert [fault.kind for fault in subject.struck()] == [FaultKind.REORDER]
    run(PLAIN, plan_of("reorder@byte:60000=65535"), subject)
    assert subject.struck() == ()


def test_a_cancel_that_comes_too_late_did_not_strike() -> None:
    subject = MigrationSubject(PLAIN)
    assert run(PLAIN, plan_of("cancel@step:900"), subject) == ""
    assert subject.struck() == ()


def test_an_executor_runs_it_under_faults(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(TARGET, watchdog)
    trial = executor.execute(Input(PLAIN, faults=plan_of("reset@byte:9000")))
    assert trial.execution.kind is ExitKind.REJECTED
    assert [fault.kind for fault in trial.struck()] == [FaultKind.RESET]
    assert executor.execute(Input(PLAIN)).execution.kind is ExitKind.ACCEPTED


def test_what_a_bug_breaks_is_an_alarm_of_the_judge(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(TARGET.variant("cancel-leaves-handler"), watchdog)
    stream = next(seed.stream for seed in TARGET.seeds() if "then-cancelled" in seed.name)
    alarm = next(oracle for oracle in ALL if oracle.name == "promises").judge
    found = alarm(executor.execute(Input(stream)))
    assert found is not None
    assert found.oracle == "nothing-left"
    assert alarm(executor.execute(Input(PLAIN))) is None


# -- bugs ------------------------------------------------------------------------------------------


@EACH
def test_each_planted_bug_is_found_and_is_no_alarm_without_it(bug: MigrationBug) -> None:
    found = search(
        1, STORIES, bug.plant,
        lambda seen: seen.oracle == bug.promise and bug.evidence in seen.path,
    )  # fmt: skip
    assert found is not None
    subject = MigrationSubject(PLAIN, bug)
    run(found.stream, FaultPlan(), subject)
    assert list(subject.violations()) == [found.violation]
    healthy = MigrationSubject(PLAIN)
    run(found.stream, FaultPlan(), healthy)
    assert healthy.violations() == ()


def test_every_promise_has_a_bug_that_breaks_it() -> None:
    assert {bug.promise for bug in BUGS} == set(PROMISES)


def test_a_bug_shows_in_no_migration_to_which_nothing_happens() -> None:
    for bug in BUGS:
        subject = MigrationSubject(PLAIN, bug)
        assert run(PLAIN, FaultPlan(), subject) == "", bug.name
        assert bug_named(bug.name) is bug
        if bug.name != "lost-page":  # for that one the guest only has to write
            assert subject.violations() == (), bug.name
