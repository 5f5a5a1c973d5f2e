"""What a planted bug is: a row of the manifest and the parts it replaces.

A bug lives in subclasses of the reference's own classes and in replaced
descriptions, never in the reference.  Its :attr:`~PlantedBug.plant` is called once
for every machine, with a :class:`Site`: the canary it reports to and the C heap of
that machine.  Two bugs may replace the same device, loader or reader: their classes
are then combined, so each calls ``super()`` for what it leaves alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.cmemory import Heap
from loadfuzz_targets.planted.truth import Canary
from savevm.devices.base import SimDevice
from savevm.load import Loader
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.ram.load import RAMLoader

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """Where a bug is planted: one machine.

    Attributes:
        canary: what the bug reports to, ``site.canary.check(condition)``.
        heap: the machine's C memory.
    """

    canary: Canary
    heap: Heap


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a bug replaces; subclasses of the reference's own.

    Attributes:
        devices: by name on the board (:data:`savevm.board.DEVICES`).
        loader: serves a load.
        reader: reads the stream.
        ram: loads a section of RAM.
        prepare: is given the finished machine, for what no class decides.
    """

    devices: Mapping[str, type[SimDevice]] = dataclasses.field(default_factory=dict)
    loader: type[Loader] | None = None
    reader: type[QEMUFileReader] | None = None
    ram: type[RAMLoader] | None = None
    prepare: Callable[[Machine], None] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PlantedBug:
    """One bug.

    Attributes:
        row: what is known of it.
        plant: makes its parts for one machine.
        example: makes a stream that triggers it.
    """

    row: BugRow
    plant: Callable[[Site], Parts]
    example: Callable[[], bytes]

    @property
    def name(self) -> str:
        """On the command line as ``planted:NAME``."""
        return self.row.name


def combined(base: type[Kind], parts: Iterable[type[Kind] | None]) -> type[Kind]:
    """One class with the changes of all ``parts``; ``base`` if there are none."""
    chosen = tuple(part for part in parts if part is not None)
    if not chosen:
        return base
    if len(chosen) == 1:
        return chosen[0]
    return type(f"Planted{base.__name__}", chosen, {})
