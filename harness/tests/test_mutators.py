"""Mutators are total, replayable and reach every part of a stream."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.abc import Mutable, Mutator
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.mutation import Mutation, Splice, apply, splice
from loadfuzz.mutators import ALL
from loadfuzz.mutators.stack import SWARM_CHILDREN, MutationStack, chosen
from loadfuzz.mutators.sweep import OPERATOR, Sweep
from loadfuzz.places import Places
from loadfuzz.rng import Rng
from savevm.board import full_machine
from savevm.document import Document
from savevm.save import save_to_bytes


def mutable(stream: bytes, donor: bytes = b"", size_max: int = STREAM_SIZE_MAX) -> Mutable:
    return Mutable(stream, Places(Document.parse(stream, full_machine)), donor, size_max)


@pytest.fixture(scope="module")
def full() -> bytes:
    machine = full_machine()
    machine.step(30)
    return save_to_bytes(machine)


@given(stream=st.binary(max_size=400), donor=st.binary(max_size=80), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_give_bytes_out_within_the_limit_and_a_record_that_replays(
    stream: bytes, donor: bytes, seed: int
) -> None:
    rng = Rng(seed)
    limit = len(stream) + rng.below(40)
    child, records = MutationStack(ALL, rng).child(
        mutable(stream, donor, limit), rng, lambda data: mutable(data, donor, limit)
    )
    assert len(child) <= limit
    assert apply(records, stream)[:limit] == child


@given(seed=st.integers(0, 2**32), at=st.integers(0, 10_000), junk=st.binary(max_size=30))
@settings(max_examples=100, deadline=None)
def test_children_of_a_damaged_stream_replay_too(seed: int, at: int, junk: bytes) -> None:
    machine = full_machine()
    stream = save_to_bytes(machine)
    at %= len(stream)
    damaged = stream[:at] + junk + stream[at + len(junk) :]
    rng = Rng(seed)
    child, records = MutationStack(ALL, rng).child(mutable(damaged, stream), rng)
    assert apply(records, damaged) == child


NEEDS_MORE = {"ram-xbzrle", "ram-encoded", "command", "crossover"}
"""A fresh save has no second round and no command, and here nothing is donated."""


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.name)
def test_every_operator_finds_a_place_in_a_full_stream(operator: Mutator, full: bytes) -> None:
    machine = full_machine()
    assert machine.ram is not None
    subject = mutable(full, full)
    rng = Rng(1)
    found = [operator.mutate(subject, rng) for _ in range(40)]
    made = [item for item in found if item is not None]
    if operator.name in NEEDS_MORE:
        assert not made
        return
    assert made
    assert all(splice(full, item.splices) != full or not item.old for item in made)


def test_the_same_seed_gives_the_same_child(full: bytes) -> None:
    first = MutationStack(ALL, Rng(7)).child(mutable(full), Rng(8))
    second = MutationStack(ALL, Rng(7)).child(mutable(full), Rng(8))
    assert first == second


def test_swarms_differ_from_seed_to_seed_and_from_time_to_time(full: bytes) -> None:
    names = set()
    for seed in range(12):
        stack = MutationStack(ALL, Rng(seed))
        rng = Rng(1)
        drawn = {m.operator for _ in range(60) for m in stack.child(mutable(full), rng)[1]}
        names.add(frozenset(drawn))
    assert len(names) > 6
    stack, rng = MutationStack(ALL, Rng(3)), Rng(1)
    subject = mutable(b"QEVM" + bytes(60))
    stretches = set()
    for _ in range(5):
        records = [stack.child(subject, rng)[1] for _ in range(SWARM_CHILDREN)]
        stretches.add(frozenset(m.operator for record in records for m in record))
    assert len(stretches) > 1


def test_overlapping_splices_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        splice(b"abcdef", (Splice(0, 3, b""), Splice(2, 4, b"")))


def test_a_mutation_recorded_for_a_longer_parent_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        apply([Mutation("raw", "", (Splice(10, 12, b"x"),))], b"short")


def test_a_fifth_to_a_quarter_of_the_draws_are_raw_bytes() -> None:
    raw = sum(operator.weight for operator in ALL if operator.name.startswith("raw"))
    assert 0.20 <= raw / sum(operator.weight for operator in ALL) <= 0.25


def test_names_of_operators_are_their_own() -> None:
    assert len({operator.name for operator in ALL}) == len(ALL)


def test_operators_are_chosen_by_name_and_by_beginning() -> None:
    picked = {operator.name: operator.weight for operator in chosen(ALL, {"raw*": 2, "raw-bit": 5})}
    weights = {operator.name: operator.weight for operator in ALL}
    assert set(picked) == {name for name in weights if name.startswith("raw")}
    assert picked["raw-bit"] == 5 * weights["raw-bit"]
    assert picked["raw-word"] == 2 * weights["raw-word"]


def test_a_text_is_swept_with_another_beginning_and_without_an_end(full: bytes) -> None:
    places = Places(Document.parse(full, full_machine))
    sweep = Sweep(Rng(1))
    sweep.add(full, places)
    (text,) = (leaf for leaf in places.values if leaf.path == "globalstate/runstate")
    found = []
    for _ in range(len(sweep)):
        made = sweep.next()
        assert made is not None
        parent, mutation = made
        if mutation.path == text.path and mutation.operator == OPERATOR:
            found.append(splice(parent, mutation.splices)[text.start : text.end])
            assert len(splice(parent, mutation.splices)) == len(full)
    before = full[text.start : text.end]
    assert before.rstrip(b"\0").isalpha()
    assert sorted(found) == sorted([
        bytes([before[0] ^ 1]) + before[1:], bytes(len(before)), b"\xff" * len(before),
        before.replace(b"\0", b"A"),
    ])  # fmt: skip


def test_of_a_long_buffer_only_the_first_byte_is_swept(
    full: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadfuzz.mutators.sweep.CONTENT_MAX", 10)
    sweep = Sweep(Rng(1), cuts=False)
    sweep.add(full, Places(Document.parse(full, full_machine)))
    made = [sweep.next() for _ in range(len(sweep))]
    assert sum(one is not None and one[1].path == "globalstate/runstate" for one in made) == 1
