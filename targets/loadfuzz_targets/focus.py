"""A fuzz target that is after one part of the format.

It is the reference with fewer operators, fewer seeds, and a machine that has no
more devices than these need, so that its loads are quick and its changes fall where
they should.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

from loadfuzz.inputs import Seed
from loadfuzz_targets.reference import ReferenceTarget
from loadfuzz_targets.streams import reference_seeds
from savevm.board import DEVICE_SETS, FULL, machine_with


class FocusedTarget(ReferenceTarget):
    """See the module (:class:`loadfuzz.abc.Target`).

    Args:
        name: as on the command line.
        summary: one line about it.
        operators: weights by name of operator, as
            :meth:`loadfuzz.abc.ChoosesOperators.operators` has them.
        seeds: patterns of the names of the reference's seeds.
        devices: keys of :data:`savevm.board.DEVICE_SETS`: the machine has all of theirs.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        *,
        operators: Mapping[str, int],
        seeds: Sequence[str] = ("*",),
        devices: Sequence[str] = ("full",),
    ) -> None:
        names = {device for key in devices for device in DEVICE_SETS[key]}
        ordered = [device for device in FULL if device in names]
        super().__init__(name, summary, partial(machine_with, *ordered))
        self._operators = dict(operators)
        self._patterns = tuple(seeds)

    def operators(self) -> Mapping[str, int]:
        """What it changes."""
        return self._operators

    def seeds(self) -> Iterable[Seed]:
        """Those of the reference's streams that have what it is after."""
        for seed in reference_seeds():
            if any(fnmatchcase(seed.name, pattern) for pattern in self._patterns):
                yield seed
