"""Hypothesis strategies for property tests of a loader, yours or ours.

Streams come from a target's seeds and our own mutators, with the records that replay
them; findings of a campaign become explicit examples::

    @given(mutated_streams(TARGET))
    @example(example_of("campaign/findings/…"))
    def test_my_loader_is_clean(mutated): ...

Hypothesis is in the extra ``test``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.abc import Mutable, Target
from loadfuzz.inputs import STREAM_SIZE_MAX, WHOLE, Delivery, Input
from loadfuzz.mutation import Mutation
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.places import Places
from loadfuzz.repro.folder import read_finding
from loadfuzz.rng import Rng

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover - the tests have it
    raise ImportError(
        "loadfuzz.testing.strategies needs Hypothesis: pip install 'loadfuzz[test]'"
    ) from error

SEED_BITS: Final = 32
PIECES_MAX: Final = 64
"""Sizes in a drawn delivery; they are repeated as long as needed."""


@dataclass(frozen=True, slots=True)
class MutatedStream:
    """A stream, what was done to it, and what came of that.

    Attributes:
        parent: the stream that was changed.
        records: replay the change: ``apply(records, parent) == child``.
        child: the changed stream.
    """

    parent: bytes
    records: tuple[Mutation, ...]
    child: bytes


def mutated_streams(
    target: Target, parents: Sequence[bytes] | None = None
) -> "st.SearchStrategy[MutatedStream]":
    """Children of a target's seeds.

    They shrink to a seed number and a parent, not to fewer bytes: for that there is the
    reducer.

    Args:
        target: parses; its seeds are the parents.
        parents: other streams to begin with.

    Raises:
        ValueError: there are no parents.
    """
    streams = [seed.stream for seed in target.seeds()] if parents is None else list(parents)
    if not streams:
        raise ValueError(f"target {target.name!r} has no seeds")
    known: dict[bytes, Places] = {}

    def places(stream: bytes) -> Places:
        found = known.get(stream)
        if found is None:
            found = known[stream] = Places(target.parse(stream))
        return found

    def make(parent: bytes, donor: bytes, seed: int) -> MutatedStream:
        stack = MutationStack.of(target, Rng(seed).child("swarm"))
        subject = Mutable(parent, places(parent), donor, STREAM_SIZE_MAX, places(donor))
        child, records = stack.child(subject, Rng(seed))
        return MutatedStream(parent, records, child)

    parent = st.sampled_from(streams)
    return st.builds(make, parent, parent, st.integers(0, (1 << SEED_BITS) - 1))


def deliveries() -> "st.SearchStrategy[Delivery]":
    """Ways in which a stream may arrive: at once, or in pieces."""
    pieces = st.lists(st.integers(1, 4096), min_size=1, max_size=PIECES_MAX)
    return st.just(WHOLE) | pieces.map(lambda sizes: Delivery(tuple(sizes)))


def inputs(target: Target) -> "st.SearchStrategy[Input]":
    """Inputs of a target: changed streams, delivered in some way."""
    return st.builds(
        lambda mutated, delivery: Input(mutated.child, delivery),
        mutated_streams(target),
        deliveries(),
    )


def example_of(folder: str | Path) -> MutatedStream:
    """A finding as a value for ``@example``: its parent, what was changed, its stream.

    Args:
        folder: of the finding.

    Raises:
        UsageError: it holds no finding.
    """
    finding = read_finding(Path(folder))
    return MutatedStream(finding.parent_stream, finding.mutations, finding.input.stream)


def example_line(folder: str | Path) -> str:
    """The line to put above a property test, so that it never forgets a finding.

    Raises:
        UsageError: the folder holds no finding.
    """
    example_of(folder)
    return f"@example(example_of({str(folder)!r}))"
