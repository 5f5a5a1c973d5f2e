"""Each oracle rings for a trial that broke its promise and for no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.abc import Cost, Oracle
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Outcome
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles import ALL, ATOMIC, CHUNKING, CLEAN_ERROR, FOOTER, NO_HANG, ROUND_TRIP
from loadfuzz.oracles.chunking import PIECES_MAX, PRIMES, deliveries
from loadfuzz.oracles.clean_error import place_of
from loadfuzz.oracles.digests import carried, differing
from loadfuzz.oracles.round_trip import first_difference
from loadfuzz.testing.trials import (
    ACCEPTED,
    CRASHED,
    ESCAPE,
    GOOD,
    REFUSAL,
    REJECTED,
    STARVED,
    TIMED_OUT,
    ScriptedTrial,
    machine,
)
from savevm.document import Document


@pytest.mark.parametrize("oracle", ALL, ids=lambda oracle: oracle.name)
@pytest.mark.parametrize("trial", [ACCEPTED, REJECTED], ids=["accepted", "rejected"])
def test_no_oracle_rings_for_a_trial_that_kept_every_promise(
    oracle: Oracle, trial: ScriptedTrial
) -> None:
    assert oracle.judge(trial) is None


def test_oracles_are_named_apart_and_say_what_they_promise() -> None:
    assert len({oracle.name for oracle in ALL}) == len(ALL) == 15
    assert all(oracle.promise for oracle in ALL)


def test_cheap_oracles_come_first_and_need_no_second_load() -> None:
    costs = [oracle.cost for oracle in ALL]
    assert costs == sorted(costs, key=[Cost.CHEAP, Cost.DEAR, Cost.DEAREST].index)
    assert {oracle.name for oracle in ALL if oracle.cost is Cost.CHEAP} == {
        "clean-error", "no-hang", "promises", "atomic",
    }  # fmt: skip


# -- clean-error ---------------------------------------------------------------------------


def test_an_exception_that_is_no_load_error_is_an_alarm_at_its_place() -> None:
    violation = CLEAN_ERROR.judge(CRASHED)
    assert violation is not None
    assert violation.path == "IndexError at rtc.py:derive"
    assert "tuple index out of range" in violation.title


def test_the_line_of_a_crash_does_not_tell_findings_apart() -> None:
    moved = replace(ESCAPE, frames=("load.py:load:10", "rtc.py:derive:300"))
    other = replace(CRASHED, execution=replace(CRASHED.execution, escape=moved))
    one, two = CLEAN_ERROR.judge(CRASHED), CLEAN_ERROR.judge(other)
    assert one is not None
    assert two is not None
    assert one.signature == two.signature


def test_a_crash_elsewhere_is_another_finding() -> None:
    elsewhere = replace(ESCAPE, frames=("load.py:load:9", "ps2.py:derive:254"))
    other = replace(CRASHED, execution=replace(CRASHED.execution, escape=elsewhere))
    one, two = CLEAN_ERROR.judge(CRASHED), CLEAN_ERROR.judge(other)
    assert one is not None
    assert two is not None
    assert one.signature != two.signature


def test_where_a_recursion_gives_up_is_chance_so_its_place_is_the_function_seen_most() -> None:
    frames = ("a.py:load:1", *("engine.py:load_state:5",) * 9, "reader.py:get_byte:3")
    assert place_of(Escape("RecursionError", "", frames)) == "engine.py:load_state"
    assert place_of(Escape("IndexError", "", frames)) == "reader.py:get_byte"
    assert place_of(Escape("IndexError", "", ())) == "unknown"


def test_running_out_of_memory_is_not_its_alarm() -> None:
    assert CLEAN_ERROR.judge(STARVED) is None


def test_a_loader_that_died_without_a_trace_is_an_alarm() -> None:
    violation = CLEAN_ERROR.judge(ScriptedTrial(Execution(ExitKind.CRASHED, Depth.NOTHING)))
    assert violation is not None
    assert violation.path == ""


# -- no-hang --------------------------------------------------------------------------------


def test_a_load_that_had_to_be_interrupted_is_an_alarm() -> None:
    violation = NO_HANG.judge(TIMED_OUT)
    assert violation is not None
    assert violation.path == "rtc.py:derive"
    assert CLEAN_ERROR.judge(TIMED_OUT) is None


def test_a_crash_is_no_hang() -> None:
    assert NO_HANG.judge(CRASHED) is None


# -- atomic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", [REJECTED, CRASHED], ids=["rejected", "crashed"])
def test_a_failed_load_that_changed_something_is_an_alarm_that_names_it(
    trial: ScriptedTrial,
) -> None:
    violation = ATOMIC.judge(replace(trial, digest_after="pair=1 ram=2"))
    assert violation is not None
    assert violation.path == "ram"
    assert ATOMIC.judge(trial) is None


def test_an_accepted_load_may_change_everything() -> None:
    assert ATOMIC.judge(replace(ACCEPTED, digest_after="pair=7 ram=2")) is None


def test_what_a_refused_load_left_behind_does_not_make_many_findings() -> None:
    one = ATOMIC.judge(replace(REJECTED, digest_after="pair=2 ram=1"))
    two = ATOMIC.judge(replace(REJECTED, digest_after="pair=3 ram=9"))
    assert one is not None
    assert two is not None
    assert one.signature == two.signature
    assert "pair, ram" in two.title


def test_digests_without_parts_are_compared_as_they_are() -> None:
    violation = ATOMIC.judge(replace(REJECTED, digest_before="aa", digest_after="bb"))
    assert violation is not None
    assert violation.path == ""


# -- footer ------------------------------------------------------------------------------------


def footer_at(stream: bytes) -> int:
    footer = Document.parse(stream, machine).sections[0].footer
    assert footer is not None
    return footer.start


@pytest.mark.parametrize("offset", [0, 4], ids=["mark", "section id"])
def test_a_wrong_footer_that_was_accepted_is_an_alarm(offset: int) -> None:
    at = footer_at(GOOD) + offset
    stream = GOOD[:at] + bytes((GOOD[at] ^ 1,)) + GOOD[at + 1 :]
    violation = FOOTER.judge(replace(ACCEPTED, stream=stream))
    assert violation is not None
    assert violation.path == "FULL"


def test_a_missing_footer_that_was_accepted_is_an_alarm() -> None:
    at = footer_at(GOOD)
    violation = FOOTER.judge(replace(ACCEPTED, stream=GOOD[:at] + GOOD[at + 5 :]))
    assert violation is not None
    assert "no footer" in violation.title or "marked" in violation.title


def test_what_lies_behind_the_end_is_no_section_that_was_accepted() -> None:
    end = next(leaf for leaf in Document.parse(GOOD, machine).leaves() if leaf.name == "eof")
    section = GOOD[footer_at(GOOD) - 30 : footer_at(GOOD)]
    damaged = Document.parse(GOOD, machine).sections[0]
    stream = GOOD[: end.end] + GOOD[damaged.start : damaged.end - 5] + b"\0" * 9 + section
    assert FOOTER.judge(replace(ACCEPTED, stream=stream)) is None


def test_a_section_that_was_not_understood_has_its_footer_nowhere() -> None:
    document = Document.parse(GOOD, machine)
    section = document.sections[0]
    # Two bytes more than the fields take, where only the footer could tell.
    stream = GOOD[: section.start] + b"\x04\0\0\0\x63\x04what" + GOOD[section.start + 10 :]
    assert FOOTER.judge(replace(ACCEPTED, stream=stream)) is None


def test_a_wrong_footer_that_was_refused_is_as_it_should_be() -> None:
    at = footer_at(GOOD)
    assert FOOTER.judge(replace(REJECTED, stream=GOOD[:at] + b"\0" + GOOD[at + 1 :])) is None


# -- round-trip --------------------------------------------------------------------------------


def test_a_save_that_does_not_load_is_an_alarm() -> None:
    refused = Outcome(ExitKind.REJECTED, "pair: a: expected 1, read 2", "pair=1 ram=1")
    violation = ROUND_TRIP.judge(replace(ACCEPTED, reloaded=refused, saves_again=b""))
    assert violation is not None
    assert "does not load" in violation.title


def test_a_save_that_differs_the_second_time_is_an_alarm_at_the_field() -> None:
    at = footer_at(GOOD) - 1  # last byte of b
    again = GOOD[:at] + b"\x07" + GOOD[at + 1 :]
    violation = ROUND_TRIP.judge(replace(ACCEPTED, saves_again=again))
    assert violation is not None
    assert violation.path == "pair/b"


def test_a_shorter_second_save_is_an_alarm() -> None:
    violation = ROUND_TRIP.judge(replace(ACCEPTED, saves_again=GOOD[:-1]))
    assert violation is not None


def test_state_that_the_save_does_not_carry_is_an_alarm_at_its_part() -> None:
    lossy = Outcome(ExitKind.ACCEPTED, "", "pair=4 ram=1")
    violation = ROUND_TRIP.judge(replace(ACCEPTED, reloaded=lossy))
    assert violation is not None
    assert violation.path == "pair"


def test_state_that_no_stream_carries_is_left_out() -> None:
    outcome = Outcome(ExitKind.ACCEPTED, "", "pair=1 ram=1 ~board=5")
    assert ROUND_TRIP.judge(
        replace(ACCEPTED, digest_after="pair=1 ram=1 ~board=4", reloaded=outcome)
    ) is None  # fmt: skip


def test_a_refused_stream_has_no_round_trip() -> None:
    assert ROUND_TRIP.judge(replace(REJECTED, saves_again=b"other")) is None


@given(st.binary(), st.binary())
def test_the_first_difference_is_where_the_common_start_ends(one: bytes, other: bytes) -> None:
    at = first_difference(one, other)
    assert one[:at] == other[:at]
    assert one == other or one[at : at + 1] != other[at : at + 1]


# -- chunking ----------------------------------------------------------------------------------


def test_another_verdict_in_pieces_is_an_alarm() -> None:
    delivery = deliveries(GOOD)[1]
    refused = Outcome(ExitKind.REJECTED, REFUSAL.text, "pair=1 ram=1")
    violation = CHUNKING.judge(replace(ACCEPTED, repeats={delivery: refused}))
    assert violation is not None
    assert violation.path == "expected mark 0x7e, read 0x0"


def test_a_reader_that_loses_bytes_is_one_finding_in_whatever_device_it_shows() -> None:
    signatures = set()
    for where in ("pair: ", "cpu: fpu: ", "0000:00:03.0/nic: "):
        text = REFUSAL.text.replace("pair: ", where).replace("0x21", f"{len(where):#x}")
        refused = Outcome(ExitKind.REJECTED, text, "pair=1 ram=1")
        violation = CHUNKING.judge(replace(ACCEPTED, repeats={deliveries(GOOD)[1]: refused}))
        assert violation is not None
        signatures.add(violation.signature)
    assert len(signatures) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(ExitKind.REJECTED, REFUSAL.text.replace("0x21", "0x22"), "pair=1 ram=1"),
        Outcome(ExitKind.ACCEPTED, "", "pair=1 ram=1"),
    ],
    ids=["another offset", "accepted"],
)
def test_another_outcome_of_a_refused_stream_is_an_alarm(outcome: Outcome) -> None:
    trial = replace(REJECTED, repeats={deliveries(REJECTED.stream)[2]: outcome})
    assert CHUNKING.judge(trial) is not None


def test_another_state_after_acceptance_in_pieces_is_an_alarm_at_its_part() -> None:
    other = Outcome(ExitKind.ACCEPTED, "", "pair=1 ram=9")
    violation = CHUNKING.judge(replace(ACCEPTED, repeats={deliveries(GOOD)[0]: other}))
    assert violation is not None
    assert violation.path == "state/ram"


def test_a_subject_with_a_past_is_not_held_against_the_pieces() -> None:
    fresh = Outcome(ExitKind.ACCEPTED, "", "pair=1 ram=0")
    everywhere = dict.fromkeys((*deliveries(GOOD), WHOLE), fresh)
    assert CHUNKING.judge(replace(ACCEPTED, repeats=everywhere)) is None


def test_a_load_without_a_verdict_is_not_repeated() -> None:
    other = Outcome(ExitKind.ACCEPTED, "", "")
    for trial in (CRASHED, TIMED_OUT, STARVED):
        assert CHUNKING.judge(replace(trial, repeats={deliveries(GOOD)[0]: other})) is None
    assert CHUNKING.judge(replace(REJECTED, stream=b"")) is None


@given(st.binary(min_size=1, max_size=400))
def test_pieces_are_legal_and_depend_on_the_stream_alone(stream: bytes) -> None:
    for delivery in deliveries(stream):
        assert delivery.chunks
        assert min(delivery.chunks) >= 1
    assert deliveries(stream) == deliveries(bytes(bytearray(stream)))


@pytest.mark.parametrize("size", [1, 2, 1000, 5000, 100_000])
def test_the_number_of_pieces_is_bounded_and_they_cover_the_stream(size: int) -> None:
    stream = bytes(size)
    for delivery in deliveries(stream):
        rounds = -(-size // sum(delivery.chunks))
        assert rounds * len(delivery.chunks) <= PIECES_MAX + 2 * len(PRIMES)
    assert 1 in deliveries(stream)[0].chunks
    assert sum(deliveries(stream)[0].chunks) == size


# -- digests -----------------------------------------------------------------------------------


def test_parts_that_a_stream_does_not_carry_are_told_apart() -> None:
    assert carried("a=1 ~b=2") == "a=1"
    assert carried("no parts") == "no parts"
    assert differing("a=1 ~b=2", "a=1 ~b=3 c=4") == ("~b", "c")
    assert differing("x", "x") == ()
