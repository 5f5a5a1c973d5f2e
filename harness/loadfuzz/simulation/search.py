"""Many stories at random: what they come to, and the first in which a promise is broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from loadfuzz.findings import Violation
from loadfuzz.rng import Rng
from loadfuzz.simulation.machines import Parts, Stable
from loadfuzz.simulation.scenario import Scenario
from loadfuzz.simulation.spelling import MAGIC, SCHEDULE_AT, decode
from loadfuzz.simulation.story import Story
from loadfuzz.simulation.world import World

SCHEDULE_BYTES: Final = 24
"""Decisions of the schedule that are drawn one by one; a story has some ten to some hundred,
and its seed makes the others."""


@dataclass(frozen=True, slots=True)
class Found:
    """A story in which something went wrong.

    Attributes:
        number: how many stories it took, from 1.
        stream: the story.
        violation: what was broken.
    """

    number: int
    stream: bytes
    violation: Violation


def drawn(rng: Rng) -> bytes:
    """A story at random."""
    return MAGIC + rng.bytes(SCHEDULE_AT - len(MAGIC) + SCHEDULE_BYTES)


def without_faults(scenario: Scenario) -> Scenario:
    """The same story when nothing goes wrong and nobody interferes."""
    return replace(
        scenario,
        attempts=tuple(
            replace(attempt, faults=replace(attempt.faults, faults=()), acts=())
            for attempt in scenario.attempts
        ),
    )


def stories(
    seed: int, count: int, stable: Stable, *, faults: bool = True
) -> Iterator[tuple[bytes, Story]]:
    """``count`` random stories, each with the byte string that says it.

    Args:
        seed: the same one makes the same stories.
        count: how many.
        stable: their machines.
        faults: without, they are the same stories with nothing that goes wrong.
    """
    rng = Rng(seed).child("stories")
    for _ in range(count):
        stream = drawn(rng)
        scenario = decode(stream)
        yield stream, World(scenario if faults else without_faults(scenario), stable).run()


def search(
    seed: int,
    count: int,
    plant: Callable[[], Parts] | None = None,
    wanted: Callable[[Violation], bool] = lambda _: True,
) -> Found | None:
    """The first of ``count`` random stories that breaks a promise.

    Args:
        seed, count: as :func:`stories` has them.
        plant: makes the parts of each story that has planted bugs.
        wanted: which violation is meant.
    """
    for number, (stream, story) in enumerate(stories(seed, count, Stable(plant)), 1):
        for violation in story.violations:
            if wanted(violation):
                return Found(number, stream, violation)
    return None
