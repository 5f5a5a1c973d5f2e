"""Faults as data: what a plan says, and what the injector makes of it."""

from collections.abc import Sequence
from errno import ECONNRESET, EIO, ETIMEDOUT
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz import codec
from loadfuzz.errors import UsageError
from loadfuzz.faults import drawing
from loadfuzz.faults.drawing import Setting
from loadfuzz.faults.kinds import KINDS, Expectation, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import FAULTS_MAX, Fault, FaultPlan, Place, at_byte, fault_of
from loadfuzz.faults.reducing import RUNS_MAX, reduced
from loadfuzz.faults.resolving import resolve
from loadfuzz.faults.source import FaultySource
from loadfuzz.faults.wire import NS_PER_MS, Deliver, Dry, End, Injector, Wait
from loadfuzz.faults.words import describe
from loadfuzz.rng import Rng
from savevm.board import full_machine
from savevm.document import Document
from savevm.save import save_to_bytes

STREAM = bytes(range(256)) * 4
EVERYWHERE = Setting(
    frozenset(Layer),
    len(STREAM),
    (0, 100, 500),
    {PlaceKind.DISK: ("disk0/goto",), PlaceKind.CALL: ("nic/post_load",)},
)


def plan_of(*texts: str, deadline_ms: int = 5000) -> FaultPlan:
    return FaultPlan(tuple(map(fault_of, texts)), deadline_ms)


def read_all(source: FaultySource, size: int = 100) -> tuple[bytes, int]:
    """Everything that arrives, and the errno that ended it (0 for none)."""
    data = b""
    try:
        while piece := source.read(size):
            data += bytes(piece)
    except OSError as error:
        return data, error.errno or -1
    return data, 0


@pytest.mark.parametrize(
    "text",
    [
        "reset@byte:4711", "short-read@read:3=1", "stall@section:2=5000", "bit-flip@byte:0=7",
        "disk-torn@disk:disk1/write-vmstate#2=512", "hook-refuses@call:nic/post_load#0=22",
        "kill@step:9", "eio@field:cpu/regs[3]",
    ],
)  # fmt: skip
def test_a_fault_reads_as_it_is_written(text: str) -> None:
    assert str(fault_of(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reset", "is no fault"),
        ("rest@byte:1", "no fault 'rest'"),
        ("reset@bite:1", "counted by byte, read"),
        ("reset@disk:disk0/goto", "strikes at byte"),
        ("reset@byte:x", "no number of a byte"),
        ("reset@byte:99999999999999", "between 0 and"),
        ("reset@byte:1=3", "has no amount"),
        ("bit-flip@byte:1=8", "between 0 and 7"),
        ("stall@byte:1=0", "between 1 and"),
        ("kill@step:-1", "between 0 and"),
    ],
)
def test_what_is_no_fault_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fault_of(text)


def test_an_amount_may_carry_its_unit() -> None:
    assert fault_of("stall@byte:1=250ms").amount == 250


def test_a_plan_survives_json() -> None:
    plan = plan_of("reset@byte:1", "disk-eio@disk:d/goto#1", "stall@read:3=10", deadline_ms=77)
    assert codec.decode(codec.encode(plan), FaultPlan) == plan


def test_the_weakest_promise_of_a_plan_is_its_expectation() -> None:
    assert plan_of("short-read@byte:1=1").expectation is Expectation.MUST_NOT_MATTER
    assert plan_of("short-read@byte:1=1", "eio@byte:2").expectation is Expectation.MUST_REJECT
    assert plan_of("eio@byte:2", "bit-flip@byte:1=1").expectation is Expectation.MUST_NOT_HARM
    assert plan_of("stall@byte:1=5001").expectation is Expectation.MUST_REJECT


@pytest.mark.parametrize("offset", [0, 1, 99, 100, 101, 1000, len(STREAM) - 1])
@pytest.mark.parametrize(
    ("kind", "code"),
    [("reset", ECONNRESET), ("eio", EIO), ("close", 0), ("half-close", 0)],
)
def test_what_ends_a_stream_ends_it_at_its_place(kind: str, code: int, offset: int) -> None:
    source = FaultySource(STREAM, plan_of(f"{kind}@byte:{offset}"))
    assert read_all(source) == (STREAM[:offset], code)
    assert [str(fault) for fault in source.struck] == [f"{kind}@byte:{offset}"]


def test_an_error_stays() -> None:
    source = FaultySource(STREAM, plan_of("reset@byte:5"))
    read_all(source)
    assert read_all(source) == (b"", ECONNRESET)


def test_a_fault_that_is_counted_by_reads_tells_where_it_struck() -> None:
    source = FaultySource(STREAM, plan_of("eio@read:2"))
    assert read_all(source, 30) == (STREAM[:60], EIO)
    assert source.struck[0].place == at_byte(60)


def test_a_fault_behind_the_end_does_not_strike() -> None:
    source = FaultySource(STREAM, plan_of(f"reset@byte:{len(STREAM) + 1}"))
    assert read_all(source) == (STREAM, 0)
    assert not source.struck


@pytest.mark.parametrize(
    "text",
    ["short-read@byte:7=1", "short-read@read:2=3", "stall@byte:9=4999", "eagain@read:1=64",
     "slow@byte:0=100000"],
)  # fmt: skip
def test_what_must_not_matter_delivers_every_byte(text: str) -> None:
    source = FaultySource(STREAM, plan_of(text))
    assert read_all(source) == (STREAM, 0)
    assert len(source.struck) == 1


def test_a_short_read_is_short_once() -> None:
    source = FaultySource(STREAM, plan_of("short-read@byte:0=3"))
    assert [len(source.read(50)) for _ in range(2)] == [3, 50]


def test_silence_beyond_the_deadline_times_out_and_must_be_refused() -> None:
    source = FaultySource(STREAM, plan_of("stall@byte:10=3000", "stall@byte:20=3000"))
    assert read_all(source) == (STREAM[:20], ETIMEDOUT)
    assert source.struck[-1].expectation is Expectation.MUST_REJECT


def test_a_slow_peer_is_as_slow_as_it_says() -> None:
    source = FaultySource(STREAM, plan_of("slow@byte:24=1000", deadline_ms=2000))
    assert read_all(source) == (STREAM, 0)
    assert source.elapsed_ns == 1000 * NS_PER_MS
    source = FaultySource(STREAM, plan_of("slow@byte:24=1000", deadline_ms=500))
    assert read_all(source)[1] == ETIMEDOUT


def test_what_changes_bytes_changes_only_those() -> None:
    cases = {
        "bit-flip@byte:3=7": STREAM[:3] + b"\x83" + STREAM[4:],
        "duplicate@byte:4=2": STREAM[:6] + STREAM[4:],
        "reorder@byte:4=2": STREAM[:4] + STREAM[6:8] + STREAM[4:6] + STREAM[8:],
        "zero-tail@byte:9": STREAM[:9] + bytes(len(STREAM) - 9),
    }
    for text, expected in cases.items():
        assert read_all(FaultySource(STREAM, plan_of(text))) == (expected, 0), text


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    st.integers(0, 1 << 32),
    st.integers(1, 64),
)
def test_pieces_in_which_a_peer_sends_do_not_change_what_a_plan_does(
    pieces: Sequence[bytes], seed: int, size: int
) -> None:
    # Where reads are counted they do, so those faults are left out.
    setting = Setting(frozenset({Layer.TRANSPORT}), sum(map(len, pieces)), (), {})
    plan = drawing.fresh(setting, Rng(seed))
    plan = FaultPlan(tuple(f for f in plan.faults if f.place.kind is PlaceKind.BYTE))
    whole = read_all(FaultySource(b"".join(pieces), plan), size)
    injector = Injector(plan)
    data, code = b"", 0
    waiting = list(pieces)
    while True:
        act = injector.pull(size)
        if isinstance(act, Deliver):
            data += act.data
        elif isinstance(act, Dry):
            if waiting:
                injector.push(waiting.pop(0))
            else:
                injector.push_end()
        elif isinstance(act, End):
            break
        elif not isinstance(act, Wait):
            code = act.errno
            break
    assert (data, code) == whole


def test_every_drawn_plan_can_be_carried_out_and_written() -> None:
    rng = Rng(5)
    kinds = set()
    plan = FaultPlan()
    for _ in range(5000):
        plan = drawing.changed(plan, EVERYWHERE, rng)
        plan.check()
        assert len(plan.faults) <= FAULTS_MAX
        for fault in plan.faults:
            assert fault_of(str(fault)) == fault
            kinds.add(fault.kind)
    assert kinds == set(FaultKind) - drawing.UNDRAWN


def test_nothing_is_drawn_where_nothing_can_go_wrong() -> None:
    assert not drawing.fresh(Setting(frozenset(), 100, (), {}), Rng(1))
    assert not drawing.fresh(Setting(frozenset({Layer.STORAGE}), 100, (), {}), Rng(1))


def test_a_plan_is_reduced_to_the_fault_that_matters() -> None:
    plan = plan_of("stall@byte:3=700", "bit-flip@byte:40=3", "reset@byte:977", deadline_ms=99)

    def still(candidate: FaultPlan) -> bool:
        return any(
            fault.kind is FaultKind.RESET and fault.place.number >= 321
            for fault in candidate.faults
        )

    assert reduced(plan, still) == plan_of("reset@byte:321")


def test_a_finding_that_needs_no_fault_loses_them_all() -> None:
    assert not reduced(plan_of("reset@byte:5", "eio@read:1"), lambda plan: True)


def test_reduction_asks_a_bounded_number_of_times() -> None:
    asked = []

    def still(candidate: FaultPlan) -> bool:
        asked.append(candidate)
        return bool(candidate.faults) and candidate.faults[0].kind is FaultKind.RESET

    far = 1 << 40
    plan = FaultPlan(
        tuple(Fault.of(FaultKind.RESET, at_byte(far - at)) for at in range(FAULTS_MAX))
    )
    reduced(plan, lambda candidate: still(candidate) and candidate.faults[0].place.number > 9)
    assert len(asked) <= RUNS_MAX


def test_places_of_the_stream_become_offsets() -> None:
    document = Document.parse(save_to_bytes(full_machine()), full_machine)
    section = document.sections[2]
    field = section.fields[0]
    plan = resolve(plan_of("reset@section:2", f"eio@field:{field.path}"), document)
    assert [fault.place for fault in plan.faults] == [at_byte(section.start), at_byte(field.start)]


def test_a_place_that_a_stream_has_not_got_strikes_nowhere() -> None:
    document = Document.parse(b"no stream", full_machine)
    assert not resolve(plan_of("reset@section:2", "eio@field:cpu/regs"), document)


def test_words_say_what_where_and_what_must_follow() -> None:
    document = Document.parse(save_to_bytes(full_machine()), full_machine)
    section = document.sections[1]
    inside, before, behind = describe(
        plan_of(
            f"reset@byte:{section.fields[0].start}",
            f"bit-flip@byte:{section.start}=2",
            f"close@byte:{document.size + 5}",
        ),
        document,
    )
    assert inside.startswith("connection reset after ")
    assert f"inside {section.fields[0].path} (must be refused)" in inside
    assert f"before {section.path} (must do no harm)" in before
    assert "behind the end" in behind


def test_every_kind_has_words_for_every_place_it_strikes_at() -> None:
    for kind, row in KINDS.items():
        for place in row.places:
            fault = Fault.of(kind, Place(place, 1, "a/b" if place in _NAMED else ""))
            fault.check()
            (line,) = describe(FaultPlan((fault,)))
            assert "{" not in line


_NAMED = (PlaceKind.FIELD, PlaceKind.DISK, PlaceKind.CALL)


def test_the_page_has_a_row_for_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    for kind, row in KINDS.items():
        amount = ""
        if row.unit:
            amount = f"{row.amount_min} to {row.amount_max:,} {row.unit} ({row.amount_usual})"
        words = row.words.format(amount="N")
        places = ", ".join(row.places)
        assert f"| `{kind}` | {row.layer} | {places} | {amount} | {words} | " in page, kind


def everything_now(injector: Injector) -> bytes:
    """What arrives until there is nothing more to be had at present."""
    data = b""
    while not isinstance(act := injector.pull(64), Dry):
        if isinstance(act, Deliver):
            data += act.data
        elif not isinstance(act, Wait):
            break
    return data


@pytest.mark.parametrize("place", range(15))
@pytest.mark.parametrize("kind", ["bit-flip", "duplicate", "zero-tail"])
def test_nothing_is_held_back_that_no_fault_waits_for(kind: str, place: int) -> None:
    amount = {"bit-flip": "=1", "duplicate": "=1", "zero-tail": ""}[kind]
    injector = Injector(plan_of(f"{kind}@byte:{place}{amount}"))
    injector.push(STREAM[1:16])
    assert len(everything_now(injector)) == 15 + (kind == "duplicate")


def test_what_changes_nothing_has_not_struck() -> None:
    for text, stream in (
        ("reorder@byte:5=9", STREAM[:14]),
        ("zero-tail@byte:5", STREAM[:5] + bytes(9)),
        ("reorder@byte:0=2", b"abab"),
    ):
        source = FaultySource(stream, plan_of(text))
        assert read_all(source) == (stream, 0)
        assert not source.struck, text


def test_a_short_read_waits_until_there_is_something_to_read() -> None:
    injector = Injector(plan_of("short-read@byte:0=1"))
    assert isinstance(injector.pull(64), Dry)
    injector.push(b"abc")
    assert injector.pull(64) == Deliver(b"a")


@pytest.mark.parametrize("text", ["stall@byte:1=9s", "slow@byte:0=1k", "reset@byte:1=1ms"])
def test_an_amount_in_another_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the amount of"):
        fault_of(text)


def test_a_reduction_that_goes_on_and_on_is_ended() -> None:
    numbers = [10_000]
    asked = 0

    def still(candidate: FaultPlan) -> bool:
        nonlocal asked
        asked += 1
        if len(candidate.faults) != 1 or candidate.faults[0].place.number != numbers[-1] - 1:
            return False
        numbers.append(numbers[-1] - 1)
        return True

    smaller = reduced(FaultPlan((Fault.of(FaultKind.RESET, at_byte(numbers[0])),)), still)
    assert asked == RUNS_MAX
    assert smaller.faults[0].place.number == numbers[-1]
