"""The target ``reference``: its seeds, its subject, and what it costs nothing to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import WHOLE, Delivery, Input, Seed
from loadfuzz.oracles import ALL
from loadfuzz.oracles.digests import parts_of
from loadfuzz_targets.digest import digest_of_machine, plain
from loadfuzz_targets.reference import TARGET, ReferenceTarget
from loadfuzz_targets.subject import MachineSubject
from savevm import LoadError
from savevm.board import DEVICE_SETS, full_machine, small_machine
from savevm.constants import SectionType
from savevm.document import NodeKind, Role
from savevm.ram.items import RAMFlag
from savevm.state import State

SEEDS = tuple(TARGET.seeds())
BY_NAME = {seed.name: seed.stream for seed in SEEDS}
LIMIT_S = 20.0
"""CPU seconds of one load: a limit for hangs, far beyond a slow machine."""


def named(seed: Seed) -> str:
    return seed.name


@pytest.fixture(scope="module")
def executor() -> Iterator[InProcessExecutor]:
    with Watchdog(LIMIT_S) as watchdog:
        yield InProcessExecutor(TARGET, watchdog)


@pytest.fixture
def subject() -> MachineSubject:
    return MachineSubject(full_machine())


# -- seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS, ids=named)
def test_every_seed_is_accepted_and_no_oracle_rings(
    seed: Seed, executor: InProcessExecutor
) -> None:
    trial = executor.execute(Input(seed.stream))
    assert trial.execution.kind is ExitKind.ACCEPTED, trial.execution.refusal
    assert [violation for oracle in ALL if (violation := oracle.judge(trial))] == []


@pytest.mark.parametrize("seed", SEEDS, ids=named)
def test_every_seed_is_understood_without_a_problem(seed: Seed) -> None:
    document = TARGET.parse(seed.stream)
    assert document.problems == []
    assert list(document.leaves(role=Role.OPAQUE)) == []
    assert document.to_bytes() == seed.stream


def test_seeds_are_distinct_and_small() -> None:
    assert len({seed.stream for seed in SEEDS}) == len(SEEDS)
    assert len({seed.name for seed in SEEDS}) == len(SEEDS)
    assert max(len(seed.stream) for seed in SEEDS) < 40_000


def test_seeds_are_the_same_every_time() -> None:
    assert tuple(ReferenceTarget().seeds()) == SEEDS


def test_there_is_a_fresh_and_a_used_seed_of_every_device_set() -> None:
    assert {f"{name}-{state}" for name in DEVICE_SETS for state in ("fresh", "ran")} <= set(BY_NAME)


def test_seeds_have_between_them_every_type_of_section() -> None:
    types = {section.type for seed in SEEDS for section in TARGET.parse(seed.stream).sections}
    assert types >= {
        SectionType.START, SectionType.PART, SectionType.END, SectionType.FULL,
    }  # fmt: skip
    kinds = {node.kind for seed in SEEDS for node in TARGET.parse(seed.stream).walk()}
    assert kinds >= {NodeKind.CONFIGURATION, NodeKind.COMMAND, NodeKind.VMDESC, NodeKind.SUBSECTION}


def test_a_seed_has_pages_sent_as_differences() -> None:
    document = TARGET.parse(BY_NAME["ram-xbzrle"])
    assert list(document.leaves(role=Role.RAM_XBZRLE_DATA))
    headers = [leaf.value for leaf in document.leaves(role=Role.RAM_HEADER)]
    assert any(isinstance(value, int) and value & RAMFlag.XBZRLE for value in headers)


def test_a_seed_has_many_parts() -> None:
    parts = [s for s in TARGET.parse(BY_NAME["ram-in-parts"]).sections if s.type_label == "PART"]
    assert len(parts) > 5


def test_the_seeds_with_optional_parts_have_what_no_single_moment_has() -> None:
    present = [
        {n.type_name for n in TARGET.parse(s.stream).walk() if n.kind is NodeKind.SUBSECTION}
        for s in SEEDS
        if s.name.startswith("optional-parts")
    ]
    assert len(present) > 1
    assert all(names - set().union(*(o for o in present if o is not names)) for names in present)


def test_old_versions_are_older_than_what_is_saved_now() -> None:
    def versions(name: str) -> dict[str, int]:
        return {
            section.idstr: section.version_id
            for section in TARGET.parse(BY_NAME[name]).sections
            if section.version_id is not None
        }

    old, new = versions("full-oldest-versions"), versions("full-ran")
    assert old.keys() == new.keys()
    assert all(old[name] <= new[name] for name in new)
    assert sum(old[name] < new[name] for name in new) >= 5


# -- parsing ---------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_looking_at_damaged_streams_does_not_change_how_the_next_is_seen(
    data: st.DataObject,
) -> None:
    seed = data.draw(st.sampled_from(["nic-ran", "serial-ran", "timer-ran"]).map(BY_NAME.get))
    assert seed is not None
    at = data.draw(st.integers(0, len(seed) - 1))
    damaged = seed[:at] + bytes((data.draw(st.integers(0, 255)),)) + seed[at + 1 :]
    assert TARGET.parse(damaged).to_bytes() == damaged
    seen = [(n.path, n.start, n.value) for n in TARGET.parse(seed).leaves()]
    assert seen == [(n.path, n.start, n.value) for n in ReferenceTarget().parse(seed).leaves()]


# -- the subject -------------------------------------------------------------------------------


def test_a_reset_undoes_loads_steps_and_saves(subject: MachineSubject) -> None:
    first, stream = subject.digest(), subject.save()
    subject.reset()
    for name in ("full-ran", "ram-xbzrle", "optional-parts-0"):
        subject.load(BY_NAME[name], WHOLE, None)
        subject.step(7)
        subject.save()
        assert subject.digest() != first
        subject.reset()
        assert subject.digest() == digest_of_machine(subject.machine) == first
    assert subject.save() == stream


def test_a_reset_reaches_what_was_put_in_place_of_captured_containers(
    subject: MachineSubject,
) -> None:
    first = subject.digest()
    subject.load(BY_NAME["nic-ran"], WHOLE, None)
    subject.reset()
    subject.load(BY_NAME["nic-fresh"], WHOLE, None)
    fresh = MachineSubject(full_machine())
    fresh.load(BY_NAME["nic-fresh"], WHOLE, None)
    assert subject.digest() == fresh.digest()
    subject.reset()
    assert subject.digest() == first


def test_a_reset_ends_a_staging_that_a_crash_left_behind(subject: MachineSubject) -> None:
    ram = subject.machine.ram
    assert ram is not None
    first = subject.digest()
    ram.stage()
    ram.blocks[0].write(0, b"left behind")
    subject.reset()
    assert not ram.staged
    assert subject.digest() == first
    subject.load(BY_NAME["ram-ran"], WHOLE, None)


def test_two_loaders_are_equal_and_independent() -> None:
    one, two = TARGET.open(), TARGET.open()
    assert one.digest() == two.digest()
    one.load(BY_NAME["full-ran"], WHOLE, None)
    assert one.digest() != two.digest()
    assert two.digest() == TARGET.open().digest()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_the_quick_digest_says_the_thorough_one_says_too(data: st.DataObject) -> None:
    subject = MachineSubject(full_machine())
    first = subject.digest()
    stream = BY_NAME[data.draw(st.sampled_from(sorted(BY_NAME)))]
    at = data.draw(st.integers(0, len(stream) - 1))
    damaged = stream[:at] + data.draw(st.binary(max_size=3)) + stream[at + 1 :]
    try:
        subject.load(damaged, WHOLE, None)
    except LoadError:
        assert subject.digest() == first
    assert subject.digest() == digest_of_machine(subject.machine)


@pytest.mark.parametrize("device", sorted(full_machine().devices))
def test_a_change_of_any_device_shows_in_its_part_of_the_digest(device: str) -> None:
    subject = MachineSubject(full_machine())
    before = parts_of(subject.digest())
    target = subject.machine.devices[device]
    name, value = next((n, v) for n, v in sorted(vars(target).items()) if type(v) is int)
    setattr(target, name, value + 1)
    after = parts_of(subject.digest())
    changed = [part for part in before if before[part] != after[part]]
    assert changed in ([device], [f"~{device}"])


def test_a_byte_of_memory_shows_in_the_digest(subject: MachineSubject) -> None:
    ram = subject.machine.ram
    assert ram is not None
    before = parts_of(subject.digest())
    ram.blocks[0].write(0xFFFF, b"\1")
    after = parts_of(subject.digest())
    assert [part for part in before if before[part] != after[part]] == ["ram"]
    subject.reset()
    assert parts_of(subject.digest()) == before


def test_a_length_of_memory_shows_in_the_digest(subject: MachineSubject) -> None:
    ram = subject.machine.ram
    assert ram is not None
    before = subject.digest()
    ram.blocks[0].used_length -= 0x1000
    assert subject.digest() != before
    subject.reset()
    assert subject.digest() == before


def test_pieces_reach_the_loader_as_they_are_asked_for(subject: MachineSubject) -> None:
    subject.load(BY_NAME["nic-ran"], WHOLE, None)
    whole = subject.digest()
    subject.reset()
    subject.load(BY_NAME["nic-ran"], Delivery((1, 2)), None)
    assert subject.digest() == whole


def test_sections_are_traced_and_fields_are_not(subject: MachineSubject) -> None:
    heard: list[str] = []
    subject.load(BY_NAME["nic-ran"], WHOLE, lambda name, *arguments: heard.append(name))
    assert heard.count("qemu_loadvm_state_section_startfull") == 3
    assert "vmstate_load_state_field" not in heard


def test_a_loader_runs_on_and_knows_what_is_impossible(subject: MachineSubject) -> None:
    subject.load(BY_NAME["full-ran"], WHOLE, None)
    subject.step(100)
    assert subject.check_invariants() == []
    subject.machine.devices["serial"].__dict__["brgr"] = 0
    assert subject.check_invariants() != []


def test_the_machine_may_be_another() -> None:
    target = ReferenceTarget("small", "a small machine", small_machine)
    subject = target.open()
    subject.load(BY_NAME["small-ran"], WHOLE, None)
    with pytest.raises(LoadError, match="no device"):
        subject.load(BY_NAME["disk-ran"], WHOLE, None)


# -- digests of states ---------------------------------------------------------------------------


def test_the_order_of_attributes_and_keys_does_not_matter() -> None:
    one = State(a=1, b={"x": bytearray(b"1"), 2: [None]})
    two = State(b={2: [None], "x": bytearray(b"1")}, a=1)
    assert plain(one) == plain(two)
    assert repr(plain(State(a=1))) != repr(plain(State(a=True)))


def test_what_is_no_state_does_not_count() -> None:
    assert plain(State(machine=object())) == plain(State(machine=print))


def test_a_state_inside_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="itself"):
        plain(loop)
