"""Each planted bug is shown by a stream, its oracle rings, and the reference is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from loadfuzz.abc import Target
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.oracles import ALL
from loadfuzz.plugins import load_target
from loadfuzz_targets.planted import BUGS, TARGET, TARGETS, PlantedBug, bug_named, rows
from loadfuzz_targets.planted.bug import combined
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.reference import TARGET as REFERENCE
from savevm.devices.nic import vmstate_nic
from savevm.document import Document, Node, Role, SectionNode
from savevm.load import Loader

SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
LIMIT_S = 0.5


def look(seed: str) -> Document:
    return REFERENCE.parse(SEEDS[seed])


def section(document: Document, idstr: str, label: str = "FULL") -> SectionNode:
    return next(s for s in document.sections if (s.idstr, s.type_label) == (idstr, label))


def footer_leaf(document: Document, label: str, role: Role) -> Node:
    footer = section(document, "ram", label).footer
    assert footer is not None
    return next(leaf for leaf in footer.leaves() if leaf.role is role)


def vector(value: int) -> bytes:
    document = look("cpu-ran")
    return document.with_value(document.find("cpu/interrupt_injected"), value)


def write_index(value: int) -> bytes:
    document = look("serial-ran")
    return document.with_value(document.find("ps2kbd/queue/wptr"), value)


def footer_id(label: str) -> bytes:
    document = look("ram-ran")
    return document.with_value(footer_leaf(document, label, Role.FOOTER_ID), 77)


def device_footer_id() -> bytes:
    document = look("nic-ran")
    return document.with_value(document.find("timer/footer/footer section id"), 1)


def refused_behind_ram() -> bytes:
    document = look("ram-ran")
    return document.with_value(section(document, "cpu").header(Role.VERSION_ID), 99)


def wide_register(path: str) -> bytes:
    document = look("cpu-ran")
    return document.with_value(document.find(path), 1 << 40)


TRIGGERS: dict[str, tuple[Callable[[], bytes], ...]] = {
    "cpu-vector-unchecked": (
        lambda: vector(32),
        lambda: vector(-33),
        lambda: vector(0x7FFFFFFF),
    ),
    "ps2-ring-walk": (lambda: write_index(256), lambda: write_index(-1)),
    "footer-id-ignored": (
        lambda: footer_id("START"),
        lambda: footer_id("PART"),
        lambda: footer_id("END"),
    ),
    "ram-committed-at-end": (refused_behind_ram,),
    "cpu-register-width": (
        lambda: wide_register("cpu/regs[3]"),
        lambda: wide_register("cpu/pc"),
    ),
    "peek-fills-once": (lambda: SEEDS["optional-parts-0"], lambda: SEEDS["optional-parts-1"]),
}
CASES = [
    pytest.param(bug, make, id=f"{bug.name}-{number}")
    for bug in BUGS
    for number, make in enumerate(TRIGGERS[bug.name])
]


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(LIMIT_S) as dog:
        yield dog


def alarms(target: Target, stream: bytes, watchdog: Watchdog) -> dict[str, Violation]:
    trial = InProcessExecutor(target, watchdog).execute(Input(stream))
    return {oracle.name: violation for oracle in ALL if (violation := oracle.judge(trial))}


@pytest.mark.parametrize(("bug", "make"), CASES)
def test_the_bug_alone_rings_its_own_oracle_and_no_other(
    bug: PlantedBug, make: Callable[[], bytes], watchdog: Watchdog
) -> None:
    assert set(alarms(TARGETS[bug.name], make(), watchdog)) == {bug.oracle}


@pytest.mark.parametrize(("bug", "make"), CASES)
def test_among_all_bugs_its_oracle_rings_too(
    bug: PlantedBug, make: Callable[[], bytes], watchdog: Watchdog
) -> None:
    assert bug.oracle in alarms(TARGET, make(), watchdog)


@pytest.mark.parametrize(("bug", "make"), CASES)
def test_the_reference_is_silent_on_the_same_stream(
    bug: PlantedBug, make: Callable[[], bytes], watchdog: Watchdog
) -> None:
    assert alarms(REFERENCE, make(), watchdog) == {}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_one_finding_whichever_stream_shows_it(
    bug: PlantedBug, watchdog: Watchdog
) -> None:
    signatures = {
        alarms(TARGETS[bug.name], make(), watchdog)[bug.oracle].signature
        for make in TRIGGERS[bug.name]
    }
    assert len(signatures) == 1


def test_footers_of_live_sections_and_of_devices_are_two_findings(watchdog: Watchdog) -> None:
    target = TARGETS["footer-id-ignored"]
    live = alarms(target, footer_id("PART"), watchdog)["footer"]
    whole = alarms(target, device_footer_id(), watchdog)["footer"]
    assert (live.path, whole.path) == ("live", "FULL")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_lets_every_good_stream_pass(bug: PlantedBug, watchdog: Watchdog) -> None:
    executor = InProcessExecutor(TARGETS[bug.name], watchdog)
    for stream in SEEDS.values():
        assert executor.execute(Input(stream)).execution.kind is ExitKind.ACCEPTED


def test_all_bugs_together_have_signatures_of_their_own(watchdog: Watchdog) -> None:
    found = {
        alarms(TARGET, TRIGGERS[bug.name][0](), watchdog)[bug.oracle].signature for bug in BUGS
    }
    assert len(found) == len(BUGS)


# -- the manifest -----------------------------------------------------------------------------


def test_every_oracle_has_a_bug_and_every_bug_an_oracle() -> None:
    assert {bug.oracle for bug in BUGS} == {oracle.name for oracle in ALL}


def test_the_manifest_has_a_full_row_of_every_bug() -> None:
    assert [row["name"] for row in rows()] == [bug.name for bug in BUGS]
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert all(value for row in rows() for value in row.values())
    assert all(bug.bug_class in {f"B{n:02}" for n in range(1, 47)} for bug in BUGS)


def test_every_oracle_says_which_bug_proves_it() -> None:
    for oracle in ALL:
        text = import_module(oracle.judge.__module__).__doc__ or ""
        assert any(bug.name in text for bug in BUGS if bug.oracle == oracle.name), oracle.name


def test_a_bug_replaces_something_and_is_found_by_name() -> None:
    for bug in BUGS:
        assert bug.devices or bug.loader or bug.reader
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
    with pytest.raises(UsageError, match="has no variant 'nothing'; it has: cpu-vector-unchecked"):
        load_target("planted:nothing")
    with pytest.raises(UsageError, match="has no variants"):
        load_target("reference:small")
