"""Simulated migration: who runs when, what the network does, and that nothing is left to chance."""

import gc
from dataclasses import replace
from errno import ECONNRESET, EIO, EPIPE
from hashlib import blake2b
from typing import Final

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.bench import migration
from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan, fault_of
from loadfuzz.rng import Rng
from loadfuzz.simulation import scheduler
from loadfuzz.simulation.choices import ByteChoices
from loadfuzz.simulation.guest import GuestPace, tick
from loadfuzz.simulation.layout import document_of
from loadfuzz.simulation.machines import KINDS, Stable
from loadfuzz.simulation.network import Link, Pipe
from loadfuzz.simulation.sameness import same
from loadfuzz.simulation.scenario import (
    ATTEMPTS_MAX,
    Act,
    Attempt,
    Deed,
    Scenario,
    decode,
    encode,
    encode_attempt,
)
from loadfuzz.simulation.scheduler import Gate, Scheduler, State, StuckError
from loadfuzz.simulation.search import drawn, search, stories
from loadfuzz.simulation.world import Story, World
from savevm.migratable import migratable_digest
from savevm.migration import MigrationParameters

MS = 1_000_000
PACE = GuestPace(MS, 1, 2)
PARAMETERS = MigrationParameters(max_bandwidth=400_000, rounds_max=60, period_ms=10)
LINK = Link(4096, 1448, 1_000_000)


def plan_of(*texts: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)))


def first_come(*data: int) -> Scheduler:
    return Scheduler(ByteChoices(bytes(data)))


def run_all(scheduler: Scheduler) -> None:
    while any(not task.background for task in scheduler.tasks):
        scheduler.step()


def unheard(who: str, what: str, number: int) -> None:
    """Nobody listens."""


def tell(scenario: Scenario, stable: Stable | None = None) -> Story:
    return World(scenario, stable or Stable()).run()


def one_attempt(**changes: object) -> Scenario:
    attempt = replace(Attempt(PARAMETERS, LINK), **changes)  # type: ignore[arg-type]
    return Scenario("ram", PACE, (attempt,))


TOLD: Final = "36ad5485f6325f52"
"""What forty stories come to, on every Python.  A change of the reference's migration, of its
guest or of the simulation changes it; a change of nothing must not."""

# -- tasks ---------------------------------------------------------------------------------------


def test_who_could_run_is_chosen_and_the_same_choices_are_the_same_order() -> None:
    def order(data: bytes) -> str:
        scheduler, told = Scheduler(ByteChoices(data)), []
        for name in "abc":

            def run(name: str = name) -> None:
                for _ in range(2):
                    told.append(name)
                    scheduler.sleep(0)

            scheduler.spawn(name, run)
        run_all(scheduler)
        return "".join(told)

    assert order(b"") == "abcabc"
    assert order(b"\2\1\0") == order(b"\2\1\0") == "cbacba"
    assert len({order(bytes((one, two))) for one in range(3) for two in range(3)}) > 3


def test_time_passes_only_when_nobody_could_run() -> None:
    scheduler, told = first_come(), []

    def sleeps(ns: int) -> None:
        scheduler.sleep(ns)
        told.append((ns, scheduler.now_ns))

    def works() -> None:
        for _ in range(5):
            scheduler.sleep(0)
        told.append((0, scheduler.now_ns))

    scheduler.spawn("sleeps long", lambda: sleeps(300))
    scheduler.spawn("sleeps", lambda: sleeps(100))
    scheduler.spawn("works", works)
    run_all(scheduler)
    assert told == [(0, 0), (100, 100), (300, 300)]


def test_a_sleeper_that_was_woken_and_sleeps_again_is_not_woken_by_the_old_alarm() -> None:
    scheduler, told = first_come(), []

    def sleeper() -> None:
        scheduler.sleep(100)
        told.append(scheduler.now_ns)
        scheduler.sleep(500)
        told.append(scheduler.now_ns)

    task = scheduler.spawn("sleeper", sleeper)
    scheduler.step()
    scheduler.wake(task)
    run_all(scheduler)
    assert told == [0, 500]


def test_when_nobody_can_go_on_it_is_said_who_waits_for_what() -> None:
    scheduler = first_come()
    gate = Gate(scheduler)
    scheduler.spawn("reader", lambda: gate.wait("for bytes"))

    def ticks() -> None:
        while True:
            scheduler.sleep(1)

    scheduler.spawn("clock", ticks, background=True)
    with pytest.raises(StuckError, match=r"nobody can go on: reader waiting for bytes$"):
        run_all(scheduler)
    assert scheduler.end_all() == ()


def test_a_story_that_goes_round_in_circles_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "STEPS_MAX", 50)
    circles = first_come()

    def runs() -> None:
        while True:
            circles.sleep(0)

    circles.spawn("runs", runs)
    with pytest.raises(StuckError) as caught:
        run_all(circles)
    assert caught.value.endless
    assert circles.end_all() == ()


def test_a_killed_task_unwinds_and_cannot_wait_any_more() -> None:
    scheduler, told = first_come(), []

    def runs() -> None:
        try:
            scheduler.sleep(100)
        finally:
            told.append("unwinds")
            scheduler.sleep(100)
            told.append("never")

    task = scheduler.spawn("runs", runs)
    scheduler.step()
    assert scheduler.kill(task)
    assert (told, task.state, scheduler.tasks) == (["unwinds"], State.ENDED, [])


def test_a_task_that_swallows_its_end_is_named() -> None:
    scheduler = first_come()
    hub = getcurrent()

    def stays() -> None:
        while True:
            try:
                scheduler.sleep(1)
            except GreenletExit:
                try:
                    hub.switch()
                except GreenletExit:
                    continue

    scheduler.spawn("stays", stays)
    scheduler.step()
    assert scheduler.end_all() == ("stays",)


def test_what_leaves_a_task_reaches_who_drives_it() -> None:
    scheduler = first_come()

    def fails() -> None:
        scheduler.sleep(1)
        raise ZeroDivisionError

    scheduler.spawn("fails", fails)
    scheduler.step()
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert scheduler.tasks == []


def test_only_a_task_can_wait() -> None:
    with pytest.raises(RuntimeError, match="only a task"):
        first_come().sleep(1)


# -- the network ---------------------------------------------------------------------------------


def send(
    data: bytes, link: Link, plan: FaultPlan = NO_FAULTS, write: int = 1000, choices: bytes = b""
) -> tuple[bytes, int, int, Pipe]:
    """What arrives, and the errno that each side met (reader, writer)."""
    scheduler = Scheduler(ByteChoices(choices))
    pipe = Pipe(scheduler, link, plan, unheard)
    got, errors = bytearray(), [0, 0]

    def reads() -> None:
        try:
            while piece := pipe.source.read(32768):
                got.extend(piece)
        except OSError as error:
            errors[0] = error.errno or -1
        finally:
            pipe.source.close()

    def writes() -> None:
        try:
            for at in range(0, len(data), write):
                pipe.sink.writev([data[at : at + write]], at)
        except OSError as error:
            errors[1] = error.errno or -1
        finally:
            pipe.sink.close()

    scheduler.spawn("reads", reads)
    scheduler.spawn("writes", writes)
    run_all(scheduler)
    return bytes(got), errors[0], errors[1], pipe


DATA = bytes(range(256)) * 40


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 9000), piece=st.integers(1, 9000), rate=st.sampled_from((0, 10**6)),
    write=st.integers(1, 9000), choices=st.binary(max_size=20),
)  # fmt: skip
def test_everything_arrives_in_order_however_narrow_it_is(
    capacity: int, piece: int, rate: int, write: int, choices: bytes
) -> None:
    data = DATA[:300] if min(capacity, piece, write) < 20 else DATA
    got, *errors, _ = send(data, Link(capacity, piece, rate), NO_FAULTS, write, choices)
    assert (got, errors) == (data, [0, 0])


@pytest.mark.parametrize(
    ("fault", "arrives", "reader", "writer"),
    [
        ("reset@byte:2500", 2500, ECONNRESET, ECONNRESET),
        ("close@byte:2500", 2500, 0, EPIPE),
        ("eio@byte:2500", 2500, EIO, EPIPE),
        ("reset@write:3", 3000, 0, ECONNRESET),
        ("eio@write:3", 3000, 0, EIO),
        ("stall@byte:100=50", len(DATA), 0, 0),
        ("slow@byte:9000=10000", len(DATA), 0, 0),
    ],
)
def test_a_fault_meets_the_sides_that_it_should(
    fault: str, arrives: int, reader: int, writer: int
) -> None:
    got, *errors, pipe = send(DATA, Link(1024, 512, 1_000_000), plan_of(fault))
    assert (len(got), errors) == (arrives, [reader, writer])
    assert [struck.kind for struck in pipe.struck] == [fault_of(fault).kind]


def test_what_is_sent_to_one_who_heard_the_end_goes_nowhere_until_he_closes() -> None:
    scheduler = first_come()
    pipe = Pipe(scheduler, Link(100, 100, 0), plan_of("half-close@byte:50"), unheard)
    told: list[object] = []

    def reads() -> None:
        told.append(len(pipe.source.read(100)))
        told.append(len(pipe.source.read(100)))
        scheduler.sleep(1000)
        pipe.source.close()

    def writes() -> None:
        pipe.sink.writev([DATA], 0)
        told.append("all written")
        scheduler.sleep(2000)
        try:
            pipe.sink.writev([DATA], 0)
        except BrokenPipeError:
            told.append("broken")

    scheduler.spawn("reads", reads)
    scheduler.spawn("writes", writes)
    run_all(scheduler)
    assert told == [50, 0, "all written", "broken"]


@pytest.mark.parametrize("fault", ["reorder@byte:10=4000", "duplicate@byte:10=4000"])
def test_a_piece_that_is_held_back_may_be_larger_than_the_pipe(fault: str) -> None:
    got, *errors, _ = send(DATA, Link(100, 100, 0), plan_of(fault))
    assert errors == [0, 0]
    assert got[:10] == DATA[:10]
    assert got != DATA


def test_shutting_down_wakes_a_writer_that_waits_for_room() -> None:
    scheduler = first_come()
    pipe = Pipe(scheduler, Link(100, 100, 0), NO_FAULTS, unheard)
    told: list[int] = []

    def writes() -> None:
        try:
            pipe.sink.writev([DATA], 0)
        except OSError as error:
            told.append(error.errno or -1)

    scheduler.spawn("writes", writes)
    scheduler.step()
    assert scheduler.tasks[0].state is State.WAITING
    pipe.shut_down()
    run_all(scheduler)
    assert told == [EPIPE]


def test_silence_takes_virtual_time_and_so_do_bytes() -> None:
    def takes(link: Link, *faults: str) -> int:
        scheduler = first_come()
        pipe = Pipe(scheduler, link, plan_of(*faults), unheard)
        scheduler.spawn("writes", lambda: pipe.sink.writev([DATA[:5000]], 0))

        def reads() -> None:
            for _ in range(5):
                pipe.source.read(1000)

        scheduler.spawn("reads", reads)
        run_all(scheduler)
        return scheduler.now_ns

    assert takes(Link(65536, 1000, 0)) == 0
    assert takes(Link(65536, 1000, 1_000_000)) == 5 * MS
    assert takes(Link(65536, 1000, 0), "stall@byte:1000=70") == 70 * MS


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
