"""From a failure to what caused it: shrinking, differences from a seed, sequences, names."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.clock import ManualClock
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.mutation import Splice, apply
from loadfuzz.plugins import load_target
from loadfuzz.testing.remembering import ABORTED, HUNG, SILENT, Effect, RememberingTarget, Rule
from loadfuzz.triage.changes import changes, combined, fewest, nearest
from loadfuzz.triage.naming import NOWHERE, after_changes, fields_of, violation_of
from loadfuzz.triage.sequences import Cause, Tracer
from loadfuzz.triage.shrinking import shrink, shrink_now
from loadfuzz.triage.symptom import symptom_of

REFERENCE = load_target("reference")
SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
SEED = "full-device-state-only"
PLANTS = Rule(("intc/irr",), Effect.PLANTS)
PAIR = Rule(("cpu/pc", "hpet/config"), Effect.DIES)
POISONS = Rule(("hpet/isr",), Effect.POISONS)
HANGS = Rule(("cpu/flags",), Effect.HANGS)


def edited(*paths: str, base: bytes = SEEDS[SEED]) -> bytes:
    """The seed with other values of these fields."""
    tree = REFERENCE.parse(SEEDS[SEED])
    for path in paths:
        node = tree.find(path)
        flipped = bytes(byte ^ 0x5A for byte in base[node.start : node.end])
        base = base[: node.start] + flipped + base[node.end :]
    return base


@given(st.sets(st.integers(0, 30)), st.integers(1, 31))
def test_of_a_list_exactly_what_is_needed_stays(needed: set[int], size: int) -> None:
    needed = {item for item in needed if item < size} or {0}
    asked = 0

    async def holds(part: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        assert list(part) == sorted(part)
        return needed <= set(part)

    assert asyncio.run(shrink(range(size), holds)) == sorted(needed)
    assert asked <= max(size * size, 4)


def test_shrinking_takes_no_event_loop_where_nothing_waits() -> None:
    assert shrink_now(range(20), lambda part: {3, 17} <= set(part)) == [3, 17]
    assert shrink_now([1, 2], lambda part: False) == [1, 2]


def test_when_nothing_may_be_tried_any_more_the_list_stays_as_it_is() -> None:
    async def holds(part: Sequence[int]) -> bool:
        return False

    assert asyncio.run(shrink([1, 2, 3], holds)) == [1, 2, 3]


def test_the_differences_of_two_streams_are_their_fields() -> None:
    seed = REFERENCE.parse(SEEDS[SEED])
    found = changes(seed, REFERENCE.parse(edited("cpu/pc", "intc/irr")))
    assert [change.path for change in found] == ["cpu/pc", "intc/irr"]
    assert combined(SEEDS[SEED], found[1:]) == edited("intc/irr")


def test_of_an_array_only_the_elements_that_differ_are_told() -> None:
    seed = REFERENCE.parse(SEEDS[SEED])
    node = seed.find("cpu/regs")
    stream = bytearray(SEEDS[SEED])
    stream[node.start + 3 * 8] ^= 0xFF
    (found,) = changes(seed, REFERENCE.parse(bytes(stream)))
    assert found.path == "cpu/regs[3]"
    assert found.splices[0].end - found.splices[0].start == 8


@pytest.mark.parametrize("other", ["ram-ran", "cpu-ran", "full-ran", "none-ran"])
def test_all_differences_together_make_the_stream(other: str) -> None:
    seed = REFERENCE.parse(SEEDS["small-ran"])
    found = changes(seed, REFERENCE.parse(SEEDS[other]))
    assert combined(SEEDS["small-ran"], found) == SEEDS[other]


@given(st.integers(0, 13469), st.integers(0, 40), st.binary(max_size=40))
def test_whatever_was_cut_or_put_in_is_told(start: int, cut: int, put: bytes) -> None:
    seed = REFERENCE.parse(SEEDS["small-ran"])
    stream = SEEDS["small-ran"][:start] + put + SEEDS["small-ran"][start + cut :]
    assert combined(SEEDS["small-ran"], changes(seed, REFERENCE.parse(stream))) == stream


def test_the_seed_with_the_fewest_differences_is_taken() -> None:
    seeds = [REFERENCE.parse(SEEDS[name]) for name in ("full-ran", SEED, "cpu-ran")]
    seed, found = fewest(seeds, REFERENCE.parse(edited("cpu/pc")))
    assert seed is seeds[1]
    assert len(found) == 1


def test_the_seed_of_a_mutant_is_the_nearest() -> None:
    seeds = list(SEEDS.values())
    for name in ("cpu-ran", "full-ran", SEED):
        seed = SEEDS[name]
        for stream in (
            seed[:100] + b"\xff" + seed[101:], seed[:100] + b"\xff" + seed[100:],
            seed[:100] + seed[104:],
        ):  # fmt: skip
            assert nearest(seeds, stream)[0] == seed, name
    assert nearest([], b"QEVM") == []
    assert nearest([b"", b"QEVM"], b"QEV") == [b"QEVM", b""]


def test_of_a_long_field_only_the_bytes_that_were_put_in_are_told() -> None:
    seed = REFERENCE.parse(SEEDS["none-ran"])
    text = seed.find("globalstate/runstate")
    put_in = SEEDS["none-ran"][: text.start + 3] + b"XY" + SEEDS["none-ran"][text.start + 3 :]
    (found,) = changes(seed, REFERENCE.parse(put_in))
    assert found.path == "globalstate/runstate"
    assert found.splices == (Splice(text.start + 3, text.start + 3, b"XY"),)


def test_what_two_streams_begin_and_end_with_does_not_count_as_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = REFERENCE.parse(SEEDS[SEED])
    assert len(list(seed.leaves())) > 400
    monkeypatch.setattr("loadfuzz.triage.changes.LEAVES_MAX", 30)
    pc = seed.find("cpu/pc")
    stream = SEEDS[SEED][: pc.start] + b"\0" + SEEDS[SEED][pc.start :]
    found = changes(seed, REFERENCE.parse(stream))
    assert {change.path.partition("/")[0] for change in found} == {"cpu"}


def trace(
    rules: Sequence[Rule], history: Sequence[bytes], execution: Execution, tmp_path: Path,
    *, seconds: float = 100.0, stopped: bool = False,
) -> Cause | None:  # fmt: skip
    target = RememberingTarget(REFERENCE, SEED, rules)

    async def run() -> Cause | None:
        async with target.executor(tmp_path, 1.0) as executor:
            tracer = Tracer(target, executor, [target.seed], ManualClock(), lambda: stopped)
            return await tracer.trace(history, execution, closely=False, seconds=seconds)

    return asyncio.run(run())


def test_damage_that_shows_a_load_later_takes_the_stream_that_did_it_and_a_good_one(
    tmp_path: Path,
) -> None:
    history = [edited("cpu/pc"), edited("intc/irr", "intc/imr"), edited("cpu/lcg")]
    cause = trace([PLANTS], history, ABORTED, tmp_path)
    assert cause is not None
    assert [step.stream for step in cause.steps] == [edited("intc/irr"), SEEDS[SEED]]
    assert fields_of(cause) == ("intc/irr",)
    assert cause.reliability == (5, 5)


def test_every_field_that_is_needed_stays(tmp_path: Path) -> None:
    history = [edited("cpu/pc", "hpet/config", "hpet/isr", "cpu/lcg", "intc/imr")]
    cause = trace([PAIR], history, SILENT, tmp_path)
    assert cause is not None
    (step,) = cause.steps
    assert fields_of(cause) == ("cpu/pc", "hpet/config")
    assert apply(step.changes, step.seed) == step.stream


def test_damage_from_far_back_is_found(tmp_path: Path) -> None:
    history = [edited("hpet/isr")] + [edited("cpu/lcg")] * 60 + [SEEDS[SEED]]
    refused = Execution(ExitKind.REJECTED, Depth.HEADER, Refusal("it is full", 22, None, ()))
    cause = trace([POISONS], history, refused, tmp_path)
    assert cause is not None
    assert [step.stream for step in cause.steps] == [edited("hpet/isr"), SEEDS[SEED]]
    assert violation_of(cause.execution, cause).signature == "idempotent:refused/it is full"


def test_what_does_not_happen_again_has_no_cause(tmp_path: Path) -> None:
    assert trace([HANGS], [edited("cpu/pc")], SILENT, tmp_path) is None


def test_another_failure_is_not_the_one_looked_for(tmp_path: Path) -> None:
    assert trace([HANGS], [edited("cpu/flags")], SILENT, tmp_path) is None
    cause = trace([HANGS], [edited("cpu/flags")], HUNG, tmp_path)
    assert cause is not None
    assert violation_of(cause.execution, cause).signature == "no-hang:hang at cpu/flags"


def test_when_time_is_up_nothing_more_is_run(tmp_path: Path) -> None:
    assert trace([PAIR], [edited("cpu/pc", "hpet/config")], SILENT, tmp_path, seconds=0.0) is None
    assert trace([PAIR], [edited("cpu/pc", "hpet/config")], SILENT, tmp_path, stopped=True) is None


def test_a_silent_death_is_named_by_its_field_and_another_by_what_was_said(tmp_path: Path) -> None:
    cause = trace([PAIR], [edited("cpu/pc", "hpet/config")], SILENT, tmp_path)
    assert cause is not None
    assert violation_of(SILENT, cause).signature == "clean-error:SIGSEGV at cpu/pc"
    assert violation_of(ABORTED, None).signature == "clean-error:SIGABRT at reset.c:reset"


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["cpu/regs[3]", "cpu/flags"], "after cpu/…"),
        (["0000:00:03.0/nic/queues[1]/start"], "after nic/…"),
        (["cpu/pc", "hpet/config"], "after several devices"),
        ([""], "after raw bytes"),
        ([], "after other loads"),
    ],
)
def test_a_silent_death_that_was_not_traced_says_so_and_what_was_changed_last(
    paths: list[str], named: str
) -> None:
    violation = violation_of(SILENT, None, after_changes(paths))
    assert violation.path == f"SIGSEGV at an unknown place, {named}"
    assert violation.title == f"SIGSEGV, {named}"
    assert violation_of(ABORTED, None, after_changes(paths)).path == "SIGABRT at reset.c:reset"


def test_a_silent_death_of_a_replay_is_the_one_that_was_not_traced() -> None:
    found = violation_of(SILENT, None).path
    assert found.endswith(NOWHERE)
    assert violation_of(SILENT, None, "cpu/…").path.startswith(found)


def test_numbers_in_what_was_said_do_not_tell_failures_apart() -> None:
    def died(message: str) -> Execution:
        return Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGABRT", message, ()))

    assert symptom_of(died("bad index 17")) == symptom_of(died("bad index 0x99"))
    assert symptom_of(died("bad index 17")) != symptom_of(died("bad level 17"))
    assert symptom_of(died("bad index 17")).telling
    assert not symptom_of(died("it said nothing")).telling
    assert symptom_of(died("running the guest")) != symptom_of(died(""))
    assert not symptom_of(died("running the guest")).telling
    assert not symptom_of(SILENT).telling


def test_a_hang_is_named_by_where_it_is_if_the_binary_says_so(tmp_path: Path) -> None:
    cause = trace([HANGS], [edited("cpu/flags")], HUNG, tmp_path)

    def at(*frames: str) -> str:
        hung = replace(HUNG, escape=Escape("hang", "busy", frames))
        return violation_of(hung, cause).path

    assert at("main.c:main:1", "loop.c:spin:7") == "hang at loop.c:spin"
    assert at("?:main:0", "?:object_get:0") == "hang at cpu/flags"
