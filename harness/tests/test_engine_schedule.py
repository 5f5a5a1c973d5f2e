"""Which stream is mutated next."""

from collections import Counter

from loadfuzz.engines.schedule import ENTRIES_MAX, Schedule
from loadfuzz.execution import Depth, Execution, ExitKind, Refusal
from loadfuzz.feedback.novelty import Novelty, Observation
from loadfuzz.rng import Rng

DRAWS = 4000


def refused(name: str) -> Execution:
    return Execution(ExitKind.REJECTED, Depth.HEADER, Refusal("no", 22, 9, ("header", name)))


def accepted(name: str) -> Execution:
    return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=(name,))


def filled(*executions: Execution) -> tuple[Schedule, Novelty]:
    novelty = Novelty()
    schedule = Schedule(novelty)
    for number, execution in enumerate(executions):
        schedule.add(b"%d" % number, str(number), novelty.observe(execution), ours=False)
    return schedule, novelty


def draws(schedule: Schedule) -> Counter[str]:
    rng = Rng(1)
    return Counter(schedule.draw(rng).digest for _ in range(DRAWS))


def test_what_was_accepted_is_drawn_most() -> None:
    schedule, _ = filled(
        *(refused("abcdefghijklmnopqrst"[n]) for n in range(20)), accepted("x"), accepted("y")
    )
    drawn = draws(schedule)
    assert drawn["20"] + drawn["21"] > DRAWS / 2


def test_every_entry_is_drawn_sometimes() -> None:
    schedule, _ = filled(*(refused("abcdefghijklmnopqrst"[n]) for n in range(20)), accepted("x"))
    assert len(draws(schedule)) == 21


def test_the_rare_is_drawn_more_than_the_common() -> None:
    executions = [accepted(name) for name in "abcdefghijklmnop"]
    schedule, novelty = filled(*executions)
    for execution in executions[1:]:
        for _ in range(100):
            novelty.observe(execution)
    drawn = draws(schedule)
    assert drawn["0"] == max(drawn[str(number)] for number in range(8))
    assert drawn["0"] > 2 * drawn["1"]


def test_what_is_not_new_is_measured_by_all_it_shows() -> None:
    schedule, novelty = filled(accepted("a"))
    seen = novelty.observe(accepted("a"))
    assert not seen.new
    schedule.add(b"again", "again", seen, ours=False)
    assert novelty.rarity(schedule.entries[1].rare) == 2


def test_a_smaller_stream_of_the_same_behaviour_takes_the_place_of_our_own() -> None:
    novelty = Novelty()
    schedule = Schedule(novelty)
    ours, given = novelty.observe(accepted("a")), novelty.observe(accepted("b"))
    schedule.add(b"x" * 100, "ours", ours, ours=True)
    schedule.add(b"x" * 100, "given", given, ours=False)
    found = schedule.smaller(ours.features, 75)
    assert found is not None
    assert found.digest == "ours"
    assert schedule.smaller(ours.features, 76) is None
    assert schedule.smaller(given.features, 1) is None
    assert schedule.smaller((99,), 1) is None


def test_there_are_only_so_many_entries() -> None:
    schedule = Schedule(Novelty())
    seen = Observation((), (), telling=False, accepted=True)
    for number in range(ENTRIES_MAX + 5):
        schedule.add(b"", str(number), seen, ours=False)
    assert len(schedule) == ENTRIES_MAX


def test_the_same_seed_draws_the_same() -> None:
    one, _ = filled(*(accepted(name) for name in "abcdef"))
    two, _ = filled(*(accepted(name) for name in "abcdef"))
    assert draws(one) == draws(two)
