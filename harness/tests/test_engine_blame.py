"""Who is blamed for what, and what is left alone for it."""

from loadfuzz.engines.blame import (
    ELSEWHERE,
    FIELDS_MAX,
    OVERRUNS_MIN,
    STILL_TRIED,
    Matrix,
    Overruns,
)
from loadfuzz.execution import ExitKind
from loadfuzz.mutation import Mutation
from loadfuzz.rng import Rng


def change(path: str, operator: str = "field-integer") -> Mutation:
    return Mutation(operator, path, ())


def test_a_field_whose_loads_overrun_is_drawn_rarely_but_not_never() -> None:
    overruns = Overruns(Rng(1))
    bad = [change("PING/command length")]
    for _ in range(OVERRUNS_MIN):
        assert not overruns.avoids(bad)
        overruns.ran(bad, ExitKind.TIMED_OUT)
    avoided = sum(overruns.avoids(bad) for _ in range(1000))
    assert 1000 - 3 * 1000 // STILL_TRIED < avoided < 1000
    assert sum(overruns.avoids([change("a/b"), *bad]) for _ in range(100)) > 50
    assert not overruns.avoids([change("a/b")])
    assert not overruns.avoids(())


def test_a_field_is_tried_again_when_most_of_its_loads_end() -> None:
    overruns = Overruns(Rng(1))
    field = [change("a/b[3]")]
    for _ in range(OVERRUNS_MIN):
        overruns.ran([change("a/b[7]")], ExitKind.OUT_OF_MEMORY)
    assert any(overruns.avoids(field) for _ in range(10))
    for _ in range(2 * OVERRUNS_MIN + 1):
        overruns.ran(field, ExitKind.REJECTED)
    assert not any(overruns.avoids(field) for _ in range(100))


def test_of_several_changes_none_is_blamed_and_a_crash_is_no_overrun() -> None:
    overruns = Overruns(Rng(1))
    for _ in range(10):
        overruns.ran([change("a/b"), change("a/c")], ExitKind.TIMED_OUT)
        overruns.ran([change("a/d")], ExitKind.CRASHED)
    assert not any(overruns.avoids([change(f"a/{name}")]) for name in "bcd" for _ in range(100))


def test_a_failure_is_counted_for_whose_work_it_was() -> None:
    matrix = Matrix()
    counted = [change("a/innocent"), change("a/guilty")]
    matrix.count(counted, ExitKind.CRASHED)
    matrix.convict(counted, ["a/guilty", "b/planted"], ExitKind.CRASHED)
    assert matrix.counts == {
        "a/innocent": {"crashed": 0, ELSEWHERE: 1},
        "a/guilty": {"crashed": 1},
        "b/planted": {"crashed": 1},
    }
    assert matrix.loads("a/innocent") == 1


def test_there_are_only_so_many_fields() -> None:
    matrix = Matrix({f"a/{number}": {} for number in range(FIELDS_MAX)})
    matrix.convict((), ["b/c"], ExitKind.CRASHED)
    matrix.count([change("b/c")], ExitKind.CRASHED)
    assert len(matrix.counts) == FIELDS_MAX
