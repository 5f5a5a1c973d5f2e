"""How many simulated migrations a minute, with faults and without.

Stories are drawn at random and told by some processes at once, in turns of some CPU seconds,
with faults and without in turn.  Rates are those of processes that have a core each: CPU time
is what counts, so that what else a shared machine does does not.  A migration
counts as one with faults when something did go wrong with it: a fault struck, or the operator
interfered.  The others of the same stories, the retries over a clean wire that must succeed
among them, take their time and are not counted.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from statistics import median
from typing import Final

from loadfuzz.bench.results import Figure
from loadfuzz.errors import InfraError
from loadfuzz.simulation.machines import Stable
from loadfuzz.simulation.search import stories
from loadfuzz.simulation.story import Story

PROCESSES: Final = 2
"""What the goal is put for."""
TURNS: Final = 3
TURN_S: Final = 4.0
"""CPU seconds of one turn: some thousand migrations."""
STORIES: Final = 100
"""Stories between two looks at the clock."""
GOAL_A_MINUTE: Final = 10_000.0
"""Migrations with faults a minute on two cores."""


def measure(turn_s: float = TURN_S, processes: int = PROCESSES) -> list[Figure]:
    """Rates of migrations with faults, and of those without.

    Args:
        turn_s: CPU seconds of a turn.
        processes: that tell stories at once.

    Raises:
        InfraError: a promise was broken, so what was measured means nothing.
    """
    faulty: list[float] = []
    clean: list[float] = []
    seeds = count(1)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        # The first turn of a process builds its machines.
        list(pool.map(_turn, _seeds(seeds, processes), [0.1] * processes, [True] * processes))
        for _ in range(TURNS):
            for rates, faults in ((faulty, True), (clean, False)):
                done = pool.map(
                    _turn, _seeds(seeds, processes), [turn_s] * processes, [faults] * processes
                )
                rates.append(60 * sum(done))
    under, without = median(faulty), median(clean)
    return [
        Figure(
            "migrations-with-faults", under, "a minute", GOAL_A_MINUTE, under / GOAL_A_MINUTE, 1.0,
            f"the goal for {PROCESSES} cores; measured with {processes} processes",
        ),
        Figure(
            "with-faults-to-without", under, "a minute", without, under / without, None,
            "the same stories when nothing goes wrong",
        ),
    ]  # fmt: skip


def _seeds(numbers: Iterator[int], processes: int) -> list[int]:
    return [next(numbers) for _ in range(processes)]


def _turn(seed: int, turn_s: float, faults: bool) -> float:
    """Migrations a CPU second: of those with faults, or of all where there are none."""
    stable = Stable()
    done = 0
    start = time.process_time()
    for number in count():
        for _, story in stories(1000 * seed + number, STORIES, stable, faults=faults):
            if story.violations:
                raise InfraError(
                    f"a promise was broken: {story.violations[0].title}; "
                    "try `loadfuzz run migration`"
                )
            done += _faulty(story) if faults else len(story.endings)
        passed = time.process_time() - start
        if passed >= turn_s:
            break
    return done / passed


def _faulty(story: Story) -> int:
    return sum(bool(ending.struck or ending.done) for ending in story.endings)
