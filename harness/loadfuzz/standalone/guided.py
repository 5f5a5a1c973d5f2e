"""The two functions that libFuzzer calls in a standalone target.

Unlike a campaign's engine this one lets libFuzzer see a failure: an alarm leaves
``test_one_input`` as an exception, which is what it takes for a crash.
"""

import sys
from typing import Final

from loadfuzz.abc import Target
from loadfuzz.campaign.settings import random_seed
from loadfuzz.engines.breeding import Breeder
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Violation
from loadfuzz.inputs import STREAM_SIZE_MAX, Input
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.rng import Rng
from loadfuzz.standalone.loop import DEAR_SHARE, LOAD_TIMEOUT_S, judge

DEAR_FIRST: Final = 64
"""Inputs at the start that dear oracles see: the corpus, mostly."""


class AlarmError(Exception):
    """An oracle rang: what libFuzzer takes for a crash of the target."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(
            f"{violation.oracle}: {violation.title} (expected: {violation.expected}; "
            f"actual: {violation.actual}; path: {violation.path})"
        )


class Guided:
    """Runs and mutates the inputs of one target; a context manager, since it
    guards loads by a timer.

    Args:
        target: what is fuzzed.
        seed: decides about our mutations; ``None`` to draw one.
    """

    def __init__(self, target: Target, seed: int | None = None) -> None:
        self._watchdog = Watchdog(LOAD_TIMEOUT_S)
        documents = Documents(target)
        self._executor = InProcessExecutor(target, self._watchdog, documents)
        rng = Rng(random_seed() if seed is None else seed)
        self._breeder = Breeder(
            target,
            documents,
            MutationStack.of(target, rng.child("swarm")),
            rng.child("mutation"),
            STREAM_SIZE_MAX,
            self._tell_once,
        )
        self._donor = b""
        self._told = False
        self._done = 0

    def _tell_once(self, what: str, error: BaseException) -> None:
        if not self._told:
            self._told = True
            print(f"{what} failed with {type(error).__name__}: {error}", file=sys.stderr)

    def __enter__(self) -> "Guided":
        self._watchdog.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.__exit__(None, None, None)

    def test_one_input(self, data: bytes) -> None:
        """Run and judge ``data``.

        Raises:
            AlarmError: an oracle rang.
        """
        self._done += 1
        dear = self._done <= DEAR_FIRST or self._done % DEAR_SHARE == 0
        violation = judge(self._executor.execute(Input(data)), dear=dear)
        if violation is not None:
            raise AlarmError(violation)

    def mutate(self, data: bytes, size_max: int, seed: int) -> bytes:
        """A child of ``data``, at most ``size_max`` bytes; never raises."""
        del seed  # one generator per child would cost more than the draws
        child, _ = self._breeder.child(data, self._donor, size_max)
        self._donor = data
        return child[:size_max]
