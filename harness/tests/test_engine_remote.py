"""A worker's session with a loader elsewhere: what it keeps, leaves alone, and survives."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from loadfuzz.bridge import drive, wait
from loadfuzz.campaign.batch import Batch, BatchResult, Engine
from loadfuzz.codec import decode
from loadfuzz.engines.blame import ELSEWHERE, MATRIX_FILE, STILL_TRIED, SUSPICION_MIN, Blame, Matrix
from loadfuzz.engines.failures import RAW_MAX, UNTOLD_MAX
from loadfuzz.engines.remote import HISTORY_MAX, SANITY_EVERY
from loadfuzz.engines.remote_loop import run_remote
from loadfuzz.errors import InfraError
from loadfuzz.events import Event, FindingAnnounced, MachineryWarning
from loadfuzz.execution import ExitKind
from loadfuzz.inputs import digest_of
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.plugins import load_target
from loadfuzz.reporters.matrix import DeviceRow, fields_of_seeds, read_counts, rows
from loadfuzz.repro.folder import read_finding, write_finding
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, seeds_of
from loadfuzz.testing.remembering import Effect, RememberingTarget, Rule

REFERENCE = load_target("reference")
SEED = "full-device-state-only"


def fuzz(
    target: RememberingTarget, out: Path, executions: int = 3000, seed: int = 5
) -> tuple[BatchResult, list[Event]]:
    (out / "corpus").mkdir(exist_ok=True)
    Corpus(out / "corpus").add(target.seed)
    told: list[Event] = []
    batch = Batch(target.name, Engine.NATIVE, str(out), 0, seed, None, executions)
    session, reason = asyncio.run(
        run_remote(batch, target, told.append, write_finding, lambda: False)
    )
    assert target.open == 0
    return session.result(reason), told


def test_failures_of_all_kinds_are_found_reduced_and_kept(tmp_path: Path) -> None:
    rules = [
        Rule(("intc/irr",), Effect.PLANTS),
        Rule(("cpu/pc",), Effect.DIES),
        Rule(("hpet/config",), Effect.DIES),
        Rule(("cpu/flags",), Effect.HANGS),
        Rule(("hpet/isr",), Effect.POISONS),
    ]
    result, told = fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path)
    assert set(result.findings) == {
        "clean-error:SIGABRT at reset.c:reset",
        "clean-error:SIGSEGV at cpu/pc",
        "clean-error:SIGSEGV at hpet/config",
        "no-hang:hang at cpu/flags",
        "idempotent:refused/it is full",
    }
    announced = [event for event in told if isinstance(event, FindingAnnounced)]
    assert len(announced) == 5
    for event in announced:
        finding = read_finding(tmp_path / event.folder)
        again, tries = finding.reliability
        assert again == tries >= 1
        changed = [*finding.mutations, *(m for e in finding.earlier for m in e.mutations)]
        assert len(changed) == 1
    planted = read_finding(tmp_path / next(e.folder for e in announced if "reset.c" in e.signature))
    assert len(planted.input.before) == 1
    assert planted.earlier[0].mutations[0].path == "intc/irr"


def test_known_failures_are_not_met_again_and_again(tmp_path: Path) -> None:
    rules = [Rule(("cpu/pc",), Effect.DIES)]
    target = RememberingTarget(REFERENCE, SEED, rules)
    result, _ = fuzz(target, tmp_path, executions=6000)
    assert result.findings == ("clean-error:SIGSEGV at cpu/pc",)
    assert result.kinds["crashed"] < 60


def test_what_takes_all_memory_is_no_finding_and_is_drawn_rarely(tmp_path: Path) -> None:
    rules = [Rule(("cpu/pc",), Effect.STARVES)]
    result, _ = fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path, executions=6000)
    assert result.findings == ()
    assert 0 < result.kinds["out-of-memory"] < 60, result.kinds


def test_a_loader_without_a_memory_is_blamed_for_the_last_stream_alone(tmp_path: Path) -> None:
    rules = [Rule(("cpu/pc",), Effect.DIES)]
    _, told = fuzz(RememberingTarget(REFERENCE, SEED, rules, stateful=False), tmp_path)
    (event,) = (event for event in told if isinstance(event, FindingAnnounced))
    assert read_finding(tmp_path / event.folder).input.before == ()


def test_trouble_with_the_machinery_is_told_and_is_no_finding(tmp_path: Path) -> None:
    rules = [Rule(("cpu/pc",), Effect.TROUBLE)]
    result, told = fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path)
    assert result.findings == ()
    assert result.faults > 0
    assert any("nobody answers" in e.text for e in told if isinstance(e, MachineryWarning))


def test_without_a_good_seed_there_is_nothing_to_do(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [])
    (tmp_path / "corpus").mkdir()
    digest = Corpus(tmp_path / "corpus").add(b"QEVM, but not for long")
    assert digest is not None
    seeds_of(tmp_path).add([digest])
    with pytest.raises(InfraError, match="accepts none of the seeds"):
        fuzz(target, tmp_path)


def test_the_matrix_says_what_was_tried_how_often_and_to_what_end(tmp_path: Path) -> None:
    rules = [Rule(("cpu/pc",), Effect.DIES)]
    fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path)
    counts = decode((tmp_path / "worker-0" / MATRIX_FILE).read_bytes(), dict[str, dict[str, int]])
    assert counts["cpu/pc"]["crashed"] >= 1
    assert counts["intc/irr"]["accepted"] >= 1
    assert len(counts) > 40


def test_a_death_is_counted_where_it_came_from_and_not_where_it_showed(tmp_path: Path) -> None:
    rules = [Rule(("intc/irr",), Effect.PLANTS)]
    result, _ = fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path)
    counts = decode((tmp_path / "worker-0" / MATRIX_FILE).read_bytes(), dict[str, dict[str, int]])
    died = {field: row["crashed"] for field, row in counts.items() if row.get("crashed")}
    assert died == {"intc/irr": result.kinds["crashed"]}
    assert any(row.get(ELSEWHERE) for row in counts.values())


def test_the_report_names_what_was_never_tried(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [])
    fuzz(target, tmp_path, executions=200)
    digest = digest_of(target.seed)
    seeds_of(tmp_path).add([digest])
    known = fields_of_seeds(tmp_path, target)
    matrix = rows(read_counts(tmp_path), known)
    tried = {field.path for row in matrix for field in row.fields}
    untried = {path for row in matrix for path in row.untried}
    assert untried
    assert not tried & untried
    assert known <= tried | untried
    assert sum(row.loads for row in matrix) >= 150


def test_rows_are_summed_by_device() -> None:
    counts = {
        "a/x": {"accepted": 2},
        "a/y": {"crashed": 1, "accepted": 1},
        "(raw)": {"rejected": 3},
    }
    others, a = rows(counts, {"a/z", "a/x"})
    assert isinstance(a, DeviceRow)
    assert (others.device, others.loads) == ("(no field)", 3)
    assert (a.device, a.loads, a.untried) == ("a", 4, ("a/z",))
    assert a.verdicts["accepted"] == 3
    assert [field.path for field in a.fields] == ["a/x", "a/y"]


def change(path: str, start: int, new: bytes) -> Mutation:
    return Mutation("x", path, (Splice(start, start + len(new), new),))


def test_a_field_that_was_blamed_is_drawn_rarely_but_not_never() -> None:
    blame = Blame(Matrix(), Rng(1))
    blame.blame(bytes(100), [change("a/b", 10, b"\1\1")], "x")
    child = bytes(10) + b"\7\7" + bytes(88)
    avoided = sum(blame.avoids(child, ()) for _ in range(1000))
    assert 1000 - 3 * 1000 // STILL_TRIED < avoided < 1000
    assert not blame.avoids(bytes(100), ())


def test_a_field_whose_loads_are_followed_by_deaths_is_suspected_and_others_are_not() -> None:
    matrix = Matrix()
    blame = Blame(matrix, Rng(1))
    bad, innocent = [change("a/bad", 0, b"x")], [change("a/innocent[3]", 1, b"x")]
    for number in range(40):
        blame.loaded(innocent)
        matrix.count(innocent, ExitKind.ACCEPTED)
        if number < SUSPICION_MIN:
            blame.loaded(bad)
            matrix.count(bad, ExitKind.CRASHED)
            blame.died()
    for _ in range(40):
        matrix.count(innocent, ExitKind.ACCEPTED)
    assert sum(blame.avoids(b"", bad) for _ in range(100)) > 80


def test_plain_code_waits_for_coroutines_however_deep_it_is() -> None:
    async def slow(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    def plain(depth: int) -> int:
        return wait(slow(depth)) if depth == 0 else wait(slow(plain(depth - 1)))

    assert asyncio.run(drive(partial(plain, 5))) == 6


def test_what_a_coroutine_raises_arrives_where_it_was_waited_for() -> None:
    async def fails() -> None:
        raise InfraError("as asked")

    def plain() -> str:
        try:
            wait(fails())
        except InfraError as error:
            return str(error)
        return "nothing"

    assert asyncio.run(drive(plain)) == "as asked"


def test_cancellation_arrives_too_and_the_code_can_clean_up() -> None:
    cleaned: list[str] = []

    def plain() -> None:
        try:
            wait(asyncio.sleep(60))
        finally:
            cleaned.append("yes")

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await drive(plain)

    asyncio.run(run())
    assert cleaned == ["yes"]


def test_waiting_where_nobody_drives_is_an_error() -> None:
    async def nothing() -> None:
        pass

    coroutine = nothing()
    with pytest.raises(RuntimeError, match="drive"):
        wait(coroutine)
    coroutine.close()


def test_a_load_that_ends_with_more_patience_is_no_finding(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [Rule(("cpu/flags",), Effect.HANGS)])
    target.patient_s = 1.0
    result, told = fuzz(target, tmp_path)
    assert result.kinds["timed-out"] > 0
    assert result.findings == ()
    assert not any(isinstance(event, FindingAnnounced) for event in told)


def test_what_another_worker_has_found_is_not_traced_again(tmp_path: Path) -> None:
    rules = [Rule(("intc/irr",), Effect.PLANTS)]
    first, second = (RememberingTarget(REFERENCE, SEED, rules) for _ in range(2))
    found, _ = fuzz(first, tmp_path)
    assert found.findings
    again, _ = fuzz(second, tmp_path, seed=6)
    assert again.kinds["crashed"] > 0
    assert again.findings == ()
    assert len(first.opened) == 2
    assert len(second.opened) == 1


def test_a_failure_that_nothing_explains_is_kept_with_the_last_streams(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [Rule(("cpu/pc",), Effect.DIES)])
    target.dies_once = True
    _, told = fuzz(target, tmp_path)
    found = [event for event in told if isinstance(event, FindingAnnounced)]
    for event in found:
        finding = read_finding(tmp_path / event.folder)
        assert finding.reliability == (0, 0)
        assert 1 <= len(finding.input.before) < RAW_MAX
    # Nobody knows what did it, so they are told apart by what was changed, and only so many.
    assert {event.signature for event in found} > {
        "clean-error:SIGSEGV at an unknown place, after cpu/…",
        "clean-error:SIGSEGV at an unknown place",
    }
    assert len(found) == UNTOLD_MAX + 1


def test_two_silent_deaths_of_the_guest_are_two_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadfuzz.engines.remote.CLOSE_SHARE", 2)
    rules = [Rule(("cpu/pc",), Effect.RUNS_BADLY), Rule(("hpet/config",), Effect.RUNS_BADLY)]
    result, _ = fuzz(RememberingTarget(REFERENCE, SEED, rules), tmp_path, executions=6000)
    assert set(result.findings) == {
        "clean-error:SIGSEGV running the guest at cpu/pc",
        "clean-error:SIGSEGV running the guest at hpet/config",
    }


def test_a_failure_is_kept_though_nobody_can_be_started_to_trace_it(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [Rule(("intc/irr",), Effect.PLANTS)])
    target.starts_max = 1
    result, told = fuzz(target, tmp_path)
    assert result.findings == ("clean-error:SIGABRT at reset.c:reset",)
    assert any("does not start" in e.text for e in told if isinstance(e, MachineryWarning))


def test_what_waits_is_kept_when_the_worker_ends_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadfuzz.engines.failures.TRACE_FIRST_S", -1e9)
    target = RememberingTarget(REFERENCE, SEED, [Rule(("intc/irr",), Effect.PLANTS)])
    target.renews_max = 1
    with pytest.raises(InfraError, match="cannot be started again"):
        fuzz(target, tmp_path)
    (folder,) = (tmp_path / "findings").iterdir()
    assert read_finding(folder).signature == "clean-error:SIGABRT at reset.c:reset"


def test_damage_done_by_the_first_load_of_a_process_is_still_remembered(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [Rule(("hpet/isr",), Effect.POISONS)])
    result, _ = fuzz(target, tmp_path, executions=6000)
    assert result.findings == ("idempotent:refused/it is full",)
    assert HISTORY_MAX >= SANITY_EVERY + 3


def test_what_was_counted_before_is_counted_on(tmp_path: Path) -> None:
    target = RememberingTarget(REFERENCE, SEED, [])
    fuzz(target, tmp_path, executions=800)
    before = sum(sum(row.values()) for row in read_counts(tmp_path).values())
    fuzz(target, tmp_path, executions=800, seed=6)
    assert sum(sum(row.values()) for row in read_counts(tmp_path).values()) > 1.5 * before


def test_what_stands_in_another_good_stream_is_not_blamed() -> None:
    blame = Blame(Matrix(), Rng(1))
    other = bytes(10) + b"\5\5" + bytes(88)
    blame.seeds = [bytes(100), other]
    blame.blame(bytes(100), [change("a/b", 10, b"\1\1")], "one")
    blame.blame(bytes(100), [change("a/c", 50, b"\1")], "two")
    assert not blame.touched(other)
    assert blame.touched(bytes(10) + b"\1\1" + bytes(88)) == {"one"}
    assert blame.touched(bytes(10) + b"\1\1" + bytes(38) + b"\1" + bytes(49)) == {"one", "two"}


def test_what_there_was_no_time_to_trace_is_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadfuzz.engines.failures.TRACE_FIRST_S", -1e9)
    rules = [Rule(("intc/irr",), Effect.PLANTS), Rule(("cpu/flags",), Effect.HANGS)]
    target = RememberingTarget(REFERENCE, SEED, rules)
    result, told = fuzz(target, tmp_path)
    assert result.findings == ("clean-error:SIGABRT at reset.c:reset",)
    (event,) = (event for event in told if isinstance(event, FindingAnnounced))
    assert event.reliability == (0, 0)
    assert any("not traced" in e.text for e in told if isinstance(e, MachineryWarning))
    assert len(target.opened) == 1
