"""A fuzz target as a pytest test.

In the file of a target::

    test_section_types = fuzz_test(TARGET)

Then ``pytest --pyargs loadfuzz_targets.section_types`` fuzzes it for some hundred
inputs, the same ones each time.
"""

from collections.abc import Callable
from typing import Final

from loadfuzz.abc import Target
from loadfuzz.standalone.loop import fuzz

EXECUTIONS: Final = 400
"""Inputs of one test: a second or two."""

SEED: Final = 20150622
"""Of the inputs: the date of the loader that this project began with."""


def fuzz_test(target: Target, executions: int = EXECUTIONS, seed: int = SEED) -> Callable[[], None]:
    """A test that fails with the first alarm.

    Args:
        target: what is fuzzed.
        executions: inputs at the most.
        seed: of their randomness.
    """

    def test() -> None:
        alarm = fuzz(target, executions, seed)
        if alarm is not None:
            said = alarm.violation
            raise AssertionError(
                f"{said.oracle}: {said.title}\n  expected: {said.expected}\n"
                f"  actual:   {said.actual}\n  path:     {said.path}\n"
                f"  input {alarm.executions} of seed {seed}, {len(alarm.stream)} bytes: "
                f"{alarm.stream.hex()}"
            )

    test.__doc__ = f"No oracle rings in {executions} inputs of {target.name}."
    return test
