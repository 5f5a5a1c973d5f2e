"""A property test of a loader, with inputs from loadfuzz (docs/property-tests.md)."""

from hypothesis import given, settings

from loadfuzz.mutation import apply
from loadfuzz.testing.strategies import MutatedStream, mutated_streams
from loadfuzz_targets.reference import TARGET
from savevm import LoadError
from savevm.board import full_machine
from savevm.load import load_from_bytes


@given(mutated_streams(TARGET))
@settings(max_examples=50, deadline=None)
def test_a_failed_load_leaves_the_machine_as_it_was(mutated: MutatedStream) -> None:
    machine = full_machine()
    before = machine.digest()
    try:
        load_from_bytes(machine, mutated.child)
    except LoadError:
        assert machine.digest() == before
    # What was done to the stream can be done again.
    assert apply(mutated.records, mutated.parent) == mutated.child
