"""Each planted bug is shown by its example, its oracle rings, and the reference is silent."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from loadfuzz.abc import Target
from loadfuzz.engines.judging import alarm_of
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.oracles import ALL, PROMISES
from loadfuzz.plugins import load_target
from loadfuzz_targets.planted import BUGS, TARGET, TARGETS, PlantedBug, bug_named
from loadfuzz_targets.planted.bug import combined
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.reference import TARGET as REFERENCE
from savevm.devices.nic import vmstate_nic
from savevm.load import Loader

SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
LIMIT_S = 0.5
EACH = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(LIMIT_S) as dog:
        yield dog


def alarms(target: Target, stream: bytes, watchdog: Watchdog) -> list[Violation]:
    trial = InProcessExecutor(target, watchdog).execute(Input(stream))
    found = []
    for oracle in ALL:
        try:
            violation = oracle.judge(trial)
        except SubjectError as error:
            violation = alarm_of(oracle, error)
        if violation is not None:
            found.append(violation)
    return found


@EACH
def test_the_example_triggers_the_bug_and_its_oracle_names_it(
    bug: PlantedBug, watchdog: Watchdog
) -> None:
    target = TARGET.variant(bug.name)
    found = alarms(target, bug.example(), watchdog)
    met = target.take_met()
    assert bug.name in met.reached
    assert bug.name in met.triggered
    assert any(bug.row.detected_by(violation) for violation in found), found


@EACH
def test_the_reference_is_silent_on_the_same_stream(bug: PlantedBug, watchdog: Watchdog) -> None:
    assert alarms(REFERENCE, bug.example(), watchdog) == []


@EACH
def test_among_all_bugs_the_example_triggers_it_too(bug: PlantedBug, watchdog: Watchdog) -> None:
    target = load_target("planted")
    assert isinstance(target, type(TARGET))
    target.take_met()
    found = alarms(target, bug.example(), watchdog)
    assert bug.name in target.take_met().triggered
    assert any(bug.row.detected_by(violation) for violation in found), found


@EACH
def test_a_bug_lets_every_good_stream_pass_untriggered(bug: PlantedBug, watchdog: Watchdog) -> None:
    target = TARGET.variant(bug.name)
    executor = InProcessExecutor(target, watchdog)
    for stream in SEEDS.values():
        assert executor.execute(Input(stream)).execution.kind is ExitKind.ACCEPTED
    assert bug.name not in target.take_met().triggered


# -- the manifest -----------------------------------------------------------------------------


def test_every_class_of_real_bugs_has_exactly_one_planted_bug() -> None:
    assert sorted(bug.row.bug_class for bug in BUGS) == [f"B{n:02}" for n in range(1, 47)]


def test_every_oracle_has_a_bug_and_every_bug_an_oracle() -> None:
    # Loaders promise nothing beyond a load; the target "migration" has bugs for that.
    assert {bug.row.oracle for bug in BUGS} == {oracle.name for oracle in ALL} - {PROMISES.name}


def test_the_manifest_has_a_full_row_of_every_bug() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    for row in TARGET.bug_rows():
        for value in (row.device, row.field, row.trigger, row.evidence, row.mirrors):
            assert value


def test_every_oracle_says_which_bug_proves_it() -> None:
    assert "the target ``migration``" in (import_module(PROMISES.judge.__module__).__doc__ or "")
    for oracle in ALL:
        if oracle is PROMISES:
            continue
        text = import_module(oracle.judge.__module__).__doc__ or ""
        assert any(bug.name in text for bug in BUGS if bug.row.oracle == oracle.name), oracle.name


def test_a_bug_is_found_by_name() -> None:
    for bug in BUGS:
        assert bug_named(bug.name) is bug
        assert TARGET.variant(bug.name).bugs == (bug,)
    with pytest.raises(KeyError):
        bug_named("no-such-bug")


def test_summaries_tell_targets_apart() -> None:
    targets = (TARGET, *TARGETS.values())
    assert len({target.name for target in targets}) == len(targets)
    assert len({target.summary for target in targets}) == len(targets)


# -- putting bugs together -------------------------------------------------------------------


def test_classes_of_several_bugs_are_combined() -> None:
    class One(Loader):
        pass

    class Two(Loader):
        pass

    assert combined(Loader, (One, None, Two)).__mro__[1:4] == (One, Two, Loader)
    assert combined(Loader, (None,)) is Loader
    assert combined(Loader, (One,)) is One


def test_a_changed_field_leaves_the_description_as_it_was() -> None:
    before = vmstate_nic.fields
    changed = with_field(vmstate_nic, ("tx", "descriptors", "address"), size=3)
    assert vmstate_nic.fields is before
    assert changed.fields is not before
    assert changed.plans is not vmstate_nic.plans
    inner = next(f for f in changed.fields if f.name == "tx").vmsd
    assert inner is not None
    untouched = next(f for f in changed.fields if f.name == "rx").vmsd
    assert untouched is next(f for f in before if f.name == "rx").vmsd


@pytest.mark.parametrize("path", [("nothing",), ("mac", "inner"), ("tx", "nothing")])
def test_a_field_that_is_not_there_cannot_be_changed(path: tuple[str, ...]) -> None:
    with pytest.raises(KeyError):
        with_field(vmstate_nic, path, size=1)


def test_one_planted_bug_alone_is_a_target_by_name() -> None:
    target = load_target("planted:footer-id-ignored")
    assert target.name == "planted:footer-id-ignored"
    with pytest.raises(UsageError, match="has no variant 'nothing'; it has: "):
        load_target("planted:nothing")
    with pytest.raises(UsageError, match="has no variants"):
        load_target("reference:small")
