"""Tasks in virtual time, and the network between two of them."""

from errno import ECONNRESET, EIO, EPIPE

import pytest
from greenlet import GreenletExit, getcurrent
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.faults.plan import NO_FAULTS, FaultPlan, fault_of
from loadfuzz.simulation import scheduler
from loadfuzz.simulation.choices import ByteChoices
from loadfuzz.simulation.network import Link, Pipe
from loadfuzz.simulation.scheduler import Gate, Scheduler, State, StuckError

MS = 1_000_000


def plan_of(*texts: str) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)))


def first_come(*data: int) -> Scheduler:
    return Scheduler(ByteChoices(bytes(data)))


def run_all(scheduler: Scheduler) -> None:
    while any(not task.background for task in scheduler.tasks):
        scheduler.step()


def unheard(who: str, what: str, number: int) -> None:
    """Nobody listens."""


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


def test_a_task_that_will_not_end_is_named() -> None:
    tasks = first_come()

    def stays() -> None:
        hub = getcurrent().parent
        assert hub is not None
        for _ in range(scheduler.KILLS_MAX + 1):
            try:
                hub.switch()
            except GreenletExit:
                continue

    task = tasks.spawn("loader", stays)
    tasks.step()
    assert not tasks.kill(task)
    assert tasks.stubborn == ["loader"]
