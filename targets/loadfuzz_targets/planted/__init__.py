"""Bugs planted on purpose: one for each of 46 classes that loaders had.

``planted`` has all of them at once, ``planted:NAME`` (see :data:`TARGETS`) one.
"""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.manifest import BUGS, bug_named
from loadfuzz_targets.planted.target import PlantedTarget

TARGET: Final = PlantedTarget()
"""Every bug at once."""

TARGETS: Final[dict[str, PlantedTarget]] = {bug.name: TARGET.variant(bug.name) for bug in BUGS}
"""Each bug alone, by its name."""

__all__ = ["BUGS", "TARGET", "TARGETS", "PlantedBug", "PlantedTarget", "bug_named"]
