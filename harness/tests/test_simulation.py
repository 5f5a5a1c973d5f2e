"""Simulated migration: stories, what keeps them honest, and that nothing is left to chance."""

import gc
from dataclasses import replace
from hashlib import blake2b
from typing import Final

import pytest
from greenlet import greenlet
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.bench import migration
from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan, fault_of
from loadfuzz.rng import Rng
from loadfuzz.simulation.guest import GuestPace, tick
from loadfuzz.simulation.layout import document_of
from loadfuzz.simulation.machines import KINDS, Stable
from loadfuzz.simulation.network import Link
from loadfuzz.simulation.sameness import same
from loadfuzz.simulation.scenario import Act, Attempt, Deed, Scenario
from loadfuzz.simulation.search import drawn, search, stories
from loadfuzz.simulation.spelling import ATTEMPTS_MAX, decode, encode, encode_attempt
from loadfuzz.simulation.story import Story
from loadfuzz.simulation.world import World
from savevm.migratable import migratable_digest
from savevm.migration import MigrationParameters
from savevm.save import save_to_bytes

MS = 1_000_000
PACE = GuestPace(MS, 1, 2)
PARAMETERS = MigrationParameters(max_bandwidth=400_000, rounds_max=60, period_ms=10)
LINK = Link(4096, 1448, 1_000_000)


def plan_of(*texts: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)))


def tell(scenario: Scenario, stable: Stable | None = None) -> Story:
    return World(scenario, stable or Stable()).run()


def one_attempt(**changes: object) -> Scenario:
    attempt = replace(Attempt(PARAMETERS, LINK), **changes)  # type: ignore[arg-type]
    return Scenario("ram", PACE, (attempt,))


TOLD: Final = "4669c2ebcb9c468f"
"""What forty stories come to, on every Python.  A change of the injector, of the reference's
migration, of its guest or of the simulation changes it; a change of nothing must not."""

# -- what a story is made from -------------------------------------------------------------------


@given(stream=st.binary(max_size=160))
def test_every_byte_string_is_a_story(stream: bytes) -> None:
    scenario = decode(stream)
    assert 1 <= len(scenario.attempts) <= ATTEMPTS_MAX
    for attempt in scenario.attempts:
        attempt.faults.check()
        assert not (attempt.autostart and attempt.answered)
        assert [act.step for act in attempt.acts] == sorted(act.step for act in attempt.acts)
    document = document_of(stream)
    assert document.to_bytes() == stream
    assert document.problems


def test_what_was_encoded_is_decoded() -> None:
    acts = (Act(Deed.CANCEL, 7), Act(Deed.KILL_SOURCE, 30))
    faults = (
        (FaultKind.RESET, PlaceKind.BYTE, 700, 0),
        (FaultKind.STALL, PlaceKind.READ, 3, 1),
        (FaultKind.BIT_FLIP, PlaceKind.BYTE, 12340, 5),
    )
    stream = encode(
        encode_attempt(acts=acts, flags=2), encode_attempt(faults=faults), kind="memdev",
        xbzrle=True, paused=True, vmdesc=True, seed=515, schedule=b"abc",
    )  # fmt: skip
    scenario = decode(stream)
    assert (scenario.kind, scenario.seed, scenario.schedule) == ("memdev", 515, b"abc")
    assert (scenario.xbzrle, scenario.paused, scenario.vmdesc) == (True, True, True)
    first, second = scenario.attempts
    assert (first.acts, first.autostart, first.faults) == (acts, True, NO_FAULTS)
    assert str(second.faults) == "reset@byte:700 stall@read:3=1 bit-flip@byte:12334=5"


def test_each_number_of_a_story_has_a_name() -> None:
    stream = encode(encode_attempt(), encode_attempt(), schedule=b"xyz")
    paths = {leaf.path for leaf in document_of(stream).leaves()}
    assert {"story/machine", "attempt 1/downtime", "attempt 2/fault 3/place", "schedule"} <= paths


# -- machines ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)), ticks=st.integers(0, 30), more=st.integers(0, 2),
)  # fmt: skip
def test_two_machines_are_the_same_exactly_when_their_digests_are(
    kind: str, ticks: int, more: int
) -> None:
    stable = Stable()
    left, right = (slot.machine for slot in stable.slots(kind)[:2])
    for machine, count in ((left, ticks), (right, ticks + more)):
        for _ in range(count):
            tick(machine, PACE)
    assert same(left, right) is (migratable_digest(left) == migratable_digest(right))
    assert same(left, right) is (not more)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_machine_is_as_new_for_the_next_story(kind: str) -> None:
    stable = Stable()
    slots = stable.slots(kind)
    digests = [slot.machine.digest() for slot in slots]
    flaky = Attempt(PARAMETERS, LINK, plan_of("reset@byte:500"), (Act(Deed.CANCEL, 9),))
    tell(Scenario(kind, PACE, (flaky, flaky), xbzrle=True), stable)
    assert stable.slots(kind) is slots
    for slot, digest in zip(slots, digests, strict=True):
        slot.machine.stop_handlers.append(lambda: None)
        slot.machine.savevm.handlers.pop()
        assert slot.left_behind()
        slot.renew()
        assert slot.machine.digest() == digest
        assert slot.left_behind() == ()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_devices_never_take_more_of_a_stream_than_is_allowed_for(kind: str) -> None:
    stable = Stable()
    machine = stable.slots(kind)[0].machine
    for _ in range(300):
        tick(machine, PACE)
        if machine.ram is not None:
            for block in machine.ram.blocks:
                block.write(0, bytes(block.used_length))
        pages = sum(b.used_pages for b in machine.ram.blocks) if machine.ram is not None else 0
        assert len(save_to_bytes(machine)) - 9 * pages <= stable.device_bytes[kind]


# -- stories -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_migration_to_which_nothing_happens_completes(kind: str) -> None:
    scenario = replace(one_attempt(), kind=kind, vmdesc=True)
    story = tell(scenario)
    (ending,) = story.endings
    assert (ending.source, ending.destination, ending.both) == ("completed", "completed", True)
    assert (story.violations, story.lost) == ((), False)


@pytest.mark.parametrize(
    ("changes", "source", "destination"),
    [
        ({"faults": plan_of("reset@byte:3000")}, "failed", "failed"),
        ({"faults": plan_of("eio@write:1")}, "failed", "failed"),
        ({"faults": plan_of("stall@byte:3000=6000"), "link": replace(LINK, capacity=512)},
         "failed", "failed"),
        ({"faults": plan_of("half-close@byte:3000"), "parameters": MigrationParameters(0),
          "link": replace(LINK, capacity=1 << 20)}, "completed", "failed"),
        ({"faults": plan_of("half-close@byte:3000"), "answered": True}, "failed", "failed"),
        ({"acts": (Act(Deed.CANCEL, 4),)}, "cancelled", "failed"),
        ({"acts": (Act(Deed.KILL_DESTINATION, 4),), "answered": True}, "failed", "killed"),
        ({"acts": (Act(Deed.STOP, 1),)}, "completed", "completed"),
        ({"acts": (Act(Deed.STOP, 1), Act(Deed.CONT, 3))}, "completed", "completed"),
        ({"autostart": True}, "completed", "completed"),
        ({"answered": True}, "completed", "completed"),
    ],
)  # fmt: skip
def test_whatever_happens_the_guest_goes_on_in_one_place(
    changes: dict[str, object], source: str, destination: str
) -> None:
    story = tell(one_attempt(**changes))
    first = story.endings[0]
    assert (first.source, first.destination) == (source, destination)
    assert (story.violations, story.lost) == ((), False)
    assert story.endings[-1].both
    assert len(story.endings) == 1 + (not first.both)


def test_a_source_that_is_killed_before_the_end_takes_its_guest_along() -> None:
    story = tell(one_attempt(acts=(Act(Deed.KILL_SOURCE, 4),)))
    assert story.lost
    assert [(e.source, e.destination) for e in story.endings] == [("killed", "failed")]


def test_a_source_that_is_killed_behind_the_end_leaves_it_at_the_destination() -> None:
    ended = [
        story
        for step in range(60)
        if not (story := tell(one_attempt(acts=(Act(Deed.KILL_SOURCE, step),)))).lost
    ]
    assert any(
        (story.endings[0].source, story.endings[0].destination) == ("killed", "completed")
        for story in ended
    )
    assert not any(story.violations for story in ended)


def test_a_destination_that_has_failed_can_be_used_again() -> None:
    flaky = Attempt(PARAMETERS, LINK, plan_of("reset@byte:3000"), reuses=True)
    story = tell(Scenario("ram", PACE, (flaky, flaky)))
    assert [ending.both for ending in story.endings] == [False, False, True]
    assert story.violations == ()
    assert {who for _, who, _, _ in story.events} >= {"source", "destination 1"}
    assert not {who for _, who, _, _ in story.events} & {"destination 2", "destination 3"}


def test_a_guest_that_was_paused_stays_so_wherever_it_is() -> None:
    flaky = Attempt(PARAMETERS, LINK, plan_of("reset@byte:3000"))
    story = tell(Scenario("ram", PACE, (flaky,), paused=True))
    assert [ending.both for ending in story.endings] == [False, True]
    assert story.violations == ()


def test_a_destination_that_starts_by_itself_can_be_fooled_and_nobody_is_blamed() -> None:
    # Zeros where the first section would begin are the end of the stream.
    story = tell(one_attempt(autostart=True, faults=plan_of("zero-tail@byte:8", "eio@byte:9000")))
    assert story.violations == ()
    assert story.endings[0].destination == "completed"


def test_a_guest_writes_while_it_is_migrated_and_rounds_are_made() -> None:
    hasty = replace(PARAMETERS, downtime_limit_ms=1)
    story = tell(one_attempt(parameters=hasty, pages_per_iterate=2))
    rounds = [
        number for _, who, what, number in story.events if who == "source" and "compl" in what
    ]
    assert rounds
    assert max(rounds) > 3


def test_after_a_story_no_task_and_no_greenlet_is_left() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(item, greenlet) and not item.dead for item in gc.get_objects())

    stable = Stable()
    before = alive()
    for _ in stories(3, 60, stable):
        pass
    assert alive() == before


def test_what_a_device_raises_leaves_the_story_and_no_task_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stable = Stable()
    cpu = stable.slots("ram")[0].machine.devices["cpu"]

    def fails() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(cpu), "step", lambda self: fails())
    world = World(one_attempt(), stable)
    with pytest.raises(ZeroDivisionError):
        world.run()
    monkeypatch.undo()
    assert tell(one_attempt(), stable).endings[0].both


def test_no_promise_is_broken_in_many_stories() -> None:
    assert search(1, 600) is None


# -- nothing is left to chance -------------------------------------------------------------------


def test_the_same_story_is_told_the_same_way() -> None:
    rng = Rng(5)
    used = Stable()
    for _ in range(40):
        stream = drawn(rng)
        assert tell(decode(stream), used).digest == tell(decode(stream)).digest


def test_another_schedule_is_another_story() -> None:
    attempt = encode_attempt(downtime=3, pipe=0x31)
    told = {tell(decode(encode(attempt, kind="small", seed=seed))).digest for seed in range(8)}
    assert len(told) > 4


def test_forty_stories_are_told_on_every_python_as_they_always_were() -> None:
    told = blake2b(digest_size=8)
    for _, story in stories(7, 40, Stable()):
        told.update(story.digest.encode())
    assert told.hexdigest() == TOLD


# -- the bench -----------------------------------------------------------------------------------


def test_the_bench_compares_stories_with_the_same_ones_without_faults() -> None:
    figures = {figure.name: figure for figure in migration.measure(turn_s=0.05, processes=1)}
    assert set(figures) == {"migrations-with-faults", "with-faults-to-without"}
    assert all(figure.value > 0 < figure.baseline for figure in figures.values())
    assert figures["migrations-with-faults"].goal == 1.0


def test_without_faults_nothing_strikes_and_nobody_interferes() -> None:
    for _, story in stories(2, 40, Stable(), faults=False):
        for ending in story.endings:
            assert ending.struck == ()
            assert all(act.deed in (Deed.STOP, Deed.CANCEL) for act in ending.done)


def test_the_operator_loses_patience_with_a_first_attempt() -> None:
    story = tell(
        one_attempt(
            faults=plan_of("stall@byte:3000=400"), patience_ns=50 * MS, impatience=Deed.CANCEL
        )
    )
    assert [act.deed for act in story.endings[0].done] == [Deed.CANCEL]
    assert not story.violations
