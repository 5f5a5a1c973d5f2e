"""Children: always one, never too long, and told how they came about."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadfuzz.abc import Mutable
from loadfuzz.engines.breeding import CREDIT_MAX, Breeder
from loadfuzz.executors.documents import Documents
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.mutators import ALL
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.plugins import load_target
from loadfuzz.rng import Rng
from loadfuzz.testing.scripted import ScriptedTarget
from savevm.document import Document


class CountingTarget(ScriptedTarget):
    def __init__(self) -> None:
        self.parsed: list[bytes] = []

    def parse(self, stream: bytes) -> Document:
        self.parsed.append(stream)
        return super().parse(stream)


class Operator:
    """An operator that does what a test wants."""

    weight = 1

    def __init__(self, change: Callable[[Mutable], Mutation | None]) -> None:
        self.name = "mine"
        self.change = change

    def mutate(self, subject: Mutable, rng: Rng) -> Mutation | None:
        return self.change(subject)


def breeder(
    *operators: Operator, size_max: int = 1 << 16, seed: int = 1
) -> tuple[Breeder, CountingTarget, list[str]]:
    target = CountingTarget()
    faults: list[str] = []
    stack = MutationStack(operators) if operators else MutationStack(ALL, Rng(seed))
    made = Breeder(
        target, Documents(target), stack, Rng(seed), size_max,
        lambda what, error: faults.append(f"{what}: {type(error).__name__}"),
    )  # fmt: skip
    return made, target, faults


def flip(subject: Mutable) -> Mutation | None:
    first = subject.stream[:1]
    return Mutation("mine", "", (Splice(0, 1, bytes([first[0] ^ 1])),)) if first else None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=100), st.integers(0, 400), st.integers(0, 99))
def test_every_stream_has_a_child_that_its_records_explain(
    parent: bytes, donor: bytes, size_max: int, seed: int
) -> None:
    made, _, faults = breeder(seed=seed)
    for _ in range(4):
        child, lineage = made.child(parent, donor, size_max)
        assert len(child) <= size_max
        assert lineage.parent == parent
        assert apply(lineage.mutations, parent)[:size_max] == child
    assert not faults


def test_the_same_seed_gives_the_same_children() -> None:
    one, two = breeder(seed=5)[0], breeder(seed=5)[0]
    parents = [b"QEVM" + bytes([number]) * 40 for number in range(20)]
    assert [one.child(p, b"d") for p in parents] == [two.child(p, b"d") for p in parents]


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError])
def test_an_operator_that_raises_costs_only_its_child(error: type[Exception]) -> None:
    def broken(subject: Mutable) -> Mutation | None:
        raise error

    made, _, faults = breeder(Operator(broken))
    child, lineage = made.child(b"parent", b"", 3)
    assert (child, lineage.mutations) == (b"par", ())
    assert faults == [f"mutating: {error.__name__}"]


def test_a_record_that_fits_no_parent_costs_only_its_child() -> None:
    made, _, faults = breeder(Operator(lambda subject: Mutation("mine", "", (Splice(9, 3, b""),))))
    assert made.child(b"parent", b"")[0] == b"parent"
    assert faults == ["mutating: ValueError"]


def test_a_tree_is_made_once_per_parent() -> None:
    made, target, _ = breeder(Operator(flip))
    for _ in range(10):
        made.child(b"one", b"")
        made.child(b"two", b"")
    assert target.parsed == [b"one", b"two"]


def test_a_tree_that_cannot_be_afforded_waits_for_its_turn() -> None:
    made, target, _ = breeder(Operator(flip), size_max=64)
    large = b"L" * (CREDIT_MAX + 64)
    assert made.child(large, b"")[1].parent == large
    # Now there is a debt: the next parent's parts are used, its tree is not made.
    _, lineage = made.child(b"small", b"")
    assert lineage.parent == large
    assert b"small" not in target.parsed
    for _ in range(100):
        made.child(large, b"")
    assert made.child(b"small", b"")[1].parent == b"small"


def test_all_operators_have_their_turn() -> None:
    assert len(ALL) > 10  # or the property above shows little


@pytest.mark.parametrize(
    ("factors", "wanted"),
    [({"raw*": 1}, "raw"), ({"field-*": 1}, "field"), ({"stream-cut*": 1}, "stream-cut")],
)
def test_who_chooses_operators_chooses_the_sweep_too(factors: dict[str, int], wanted: str) -> None:
    target = load_target("reference")
    made = Breeder(
        target, Documents(target), MutationStack.of(target, Rng(1), factors), Rng(2), 1 << 16,
        lambda what, error: None,
    )  # fmt: skip
    streams = [seed.stream for seed in target.seeds()][:4]
    made.prime(streams)
    used = {
        mutation.operator
        for turn in range(300)
        for mutation in made.child(streams[turn % 4], streams[0])[1].mutations
    }
    assert used
    assert all(name.startswith(wanted) for name in used), used
