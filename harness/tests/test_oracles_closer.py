"""The oracles that look closer ring for what they promise, and name the place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadfuzz.abc import Growth, GuestRun
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.findings import Violation
from loadfuzz.oracles import (
    BOUNDED_MEMORY,
    CHUNKING,
    COMPLETE,
    DIFFERENTIAL,
    IDEMPOTENT,
    INVARIANTS,
    NO_FALSE_REJECT,
    NO_LEAK,
    TRUNCATION,
)
from loadfuzz.oracles.bounded_memory import allowed_bytes
from loadfuzz.oracles.chunking import deliveries
from loadfuzz.oracles.truncation import BOUNDARIES_MAX, INSIDE_MAX, cuts
from loadfuzz.testing.trials import (
    ACCEPTED,
    CRASHED,
    GOOD,
    REJECTED,
    STARVED,
    TIMED_OUT,
    ScriptedTrial,
    machine,
)
from savevm.document import Document

REFUSED = Outcome(ExitKind.REJECTED, "pair/a: expected 1, read 2 (offset 0x30)", "pair=1 ram=1")
OTHER_STATE = Outcome(ExitKind.ACCEPTED, "", "pair=2 ram=1")
LOADED = tuple(f"vmstate_load {section.idstr} pair" for section in
               Document.parse(GOOD, machine).sections)  # fmt: skip


def rung(violation: Violation | None) -> Violation:
    assert violation is not None
    return violation


def with_events(trial: ScriptedTrial, *events: str) -> ScriptedTrial:
    return replace(trial, execution=replace(trial.execution, events=events))


# -- bounded-memory ---------------------------------------------------------------------------


def test_running_out_of_memory_is_an_alarm_on_every_execution() -> None:
    assert BOUNDED_MEMORY.quick is not None
    assert rung(BOUNDED_MEMORY.quick(STARVED)).oracle == "bounded-memory"
    assert rung(BOUNDED_MEMORY.judge(STARVED)).path == "load"


def test_a_peak_that_the_stream_does_not_explain_is_an_alarm_where_the_load_ended() -> None:
    bound = allowed_bytes(len(REJECTED.stream))
    assert BOUNDED_MEMORY.judge(replace(REJECTED, peak=bound)) is None
    assert rung(BOUNDED_MEMORY.judge(replace(REJECTED, peak=bound + 1))).path == "pair"


# -- invariants -------------------------------------------------------------------------------


def test_an_impossible_state_is_an_alarm_at_its_field() -> None:
    trial = replace(ACCEPTED, impossible=("nic: tx.head: expected 0 to 7, read 9", "cpu: x: y"))
    assert rung(INVARIANTS.judge(trial)).path == "nic/tx.head"
    assert INVARIANTS.quick is not None
    assert rung(INVARIANTS.quick(trial)).path == "nic/tx.head"


def test_a_guest_that_does_not_run_is_an_alarm_at_the_place() -> None:
    assert rung(INVARIANTS.judge(replace(ACCEPTED, guest=None))).path == (
        "steps/IndexError at rtc.py:derive"
    )


def test_a_state_that_becomes_impossible_is_an_alarm() -> None:
    run = GuestRun((), ("rtc: yday: expected 3, read 4",), GOOD)
    assert rung(INVARIANTS.judge(replace(ACCEPTED, guest=run))).path == "rtc/yday"


def test_what_was_saved_after_the_steps_must_not_kill_the_loader() -> None:
    saved = b"QEVM later"
    died = Outcome(ExitKind.CRASHED, "IndexError: out of range", "")
    trial = replace(ACCEPTED, guest=GuestRun((), (), saved), others={saved: died})
    assert rung(INVARIANTS.judge(trial)).path == "reload/IndexError"
    assert NO_FALSE_REJECT.judge(trial) is None


def test_a_refused_load_has_no_state_to_look_at() -> None:
    assert INVARIANTS.judge(replace(REJECTED, impossible=("cpu: x: y",))) is None


# -- no-false-reject --------------------------------------------------------------------------


def test_a_refused_stream_without_a_fault_is_an_alarm_at_what_refused_it() -> None:
    assert rung(NO_FALSE_REJECT.judge(replace(REJECTED, stream=GOOD))).path == "pair"


def test_what_the_guest_brings_about_must_load() -> None:
    saved = b"QEVM later"
    trial = replace(ACCEPTED, guest=GuestRun((), (), saved), others={saved: REFUSED})
    assert rung(NO_FALSE_REJECT.judge(trial)).path == "pair/a"


def test_a_guest_that_fails_is_somebody_elses_alarm() -> None:
    assert NO_FALSE_REJECT.judge(replace(ACCEPTED, guest=None)) is None


# -- idempotent -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(ACCEPTED.stream,), (GOOD,)], ids=["itself", "another"])
def test_another_state_after_another_load_is_an_alarm_at_its_part(
    before: tuple[bytes, ...],
) -> None:
    trial = replace(ACCEPTED, histories={before: OTHER_STATE})
    assert rung(IDEMPOTENT.judge(trial)).path == "state/pair"


def test_another_verdict_after_another_load_is_an_alarm_with_its_reason() -> None:
    trial = replace(REJECTED, histories={(GOOD,): OTHER_STATE})
    assert rung(IDEMPOTENT.judge(trial)).path == "expected mark 0x7e, read 0x0"


def test_state_that_does_not_travel_may_differ() -> None:
    local = Outcome(ExitKind.ACCEPTED, "", "pair=1 ram=1 ~board=9")
    assert IDEMPOTENT.judge(replace(ACCEPTED, histories={(GOOD,): local})) is None


def test_a_load_that_does_not_end_is_not_repeated() -> None:
    assert IDEMPOTENT.judge(replace(TIMED_OUT, histories={(GOOD,): OTHER_STATE})) is None


# -- differential -----------------------------------------------------------------------------


def test_a_twin_with_another_verdict_is_an_alarm_at_what_was_refused() -> None:
    assert rung(DIFFERENTIAL.judge(replace(ACCEPTED, twin=REFUSED))).path == "pair/a"


def test_a_twin_with_another_state_is_an_alarm_at_its_part() -> None:
    assert rung(DIFFERENTIAL.judge(replace(ACCEPTED, twin=OTHER_STATE))).path == "pair"


def test_two_refusals_need_not_have_one_reason() -> None:
    assert DIFFERENTIAL.judge(replace(REJECTED, twin=REFUSED)) is None


def test_a_twin_that_dies_is_judged_where_it_is_fuzzed() -> None:
    died = Outcome(ExitKind.CRASHED, "IndexError", "")
    assert DIFFERENTIAL.judge(replace(ACCEPTED, twin=died)) is None


# -- complete ---------------------------------------------------------------------------------


def test_a_section_that_was_passed_over_is_an_alarm() -> None:
    assert COMPLETE.judge(with_events(ACCEPTED, *LOADED)) is None
    assert rung(COMPLETE.judge(with_events(ACCEPTED, "vmstate_load other x"))).path == "pair"


def test_a_section_that_stands_twice_is_an_alarm() -> None:
    tree = Document.parse(GOOD, machine)
    twice = replace(ACCEPTED, stream=tree.duplicated(tree.sections[0]))
    assert rung(COMPLETE.judge(with_events(twice, *LOADED * 2))).path == "pair"


def test_a_loader_that_does_not_trace_is_left_alone() -> None:
    assert COMPLETE.judge(with_events(ACCEPTED)) is None


# -- truncation -------------------------------------------------------------------------------


def test_an_accepted_prefix_is_an_alarm() -> None:
    start = Document.parse(GOOD, machine).sections[0].start
    trial = replace(ACCEPTED, others={GOOD[:start]: OTHER_STATE})
    assert rung(TRUNCATION.judge(trial)).path == "boundary of a section"


def test_cuts_come_before_the_end_and_are_bounded() -> None:
    chosen = cuts(GOOD, Document.parse(GOOD, machine))
    assert 0 < len(chosen) <= BOUNDARIES_MAX + INSIDE_MAX
    assert all(0 < cut < len(GOOD) for cut, _ in chosen)
    assert chosen == cuts(GOOD, Document.parse(GOOD, machine))


def test_a_stream_that_nobody_understands_is_not_cut() -> None:
    assert cuts(b"no stream", Document.parse(b"no stream", machine)) == []


# -- no-leak ----------------------------------------------------------------------------------


def test_a_broken_redzone_is_an_alarm_on_every_execution() -> None:
    broken = replace(REJECTED, broken=("nic/macs",))
    assert NO_LEAK.quick is not None
    assert (
        rung(NO_LEAK.quick(broken)).path == rung(NO_LEAK.judge(broken)).path == ("redzone/nic/macs")
    )


def test_what_piles_up_is_an_alarm_at_once_where_there_is_more_than_before() -> None:
    leaking = replace(CRASHED, grown=Growth((("timers", 2),), ()))
    assert NO_LEAK.quick is not None
    assert NO_LEAK.quick(leaking) is None
    assert rung(NO_LEAK.quick(replace(leaking, more=True))).path == "pile/timers"
    assert rung(NO_LEAK.judge(leaking)).path == "pile/timers"


def test_a_subject_that_cannot_tell_has_no_leak() -> None:
    assert NO_LEAK.judge(replace(ACCEPTED, grown=None)) is None


@pytest.mark.parametrize(
    ("kind", "rings"),
    [(ExitKind.CRASHED, True), (ExitKind.TIMED_OUT, True), (ExitKind.OUT_OF_MEMORY, False)],
)
def test_a_crash_or_hang_that_only_a_second_load_has_is_an_alarm_of_those_that_compare(
    kind: ExitKind, rings: bool
) -> None:
    # Nobody else loads in pieces or again: who compares is the only one to see it.
    bad = Outcome(kind, "IndexError: index out of range", "pair=1 ram=1")
    history = IDEMPOTENT.judge(replace(ACCEPTED, histories={(GOOD,): bad}))
    pieces = CHUNKING.judge(replace(ACCEPTED, repeats={deliveries(GOOD)[0]: bad}))
    assert (history is not None, pieces is not None) == (rings, rings)
