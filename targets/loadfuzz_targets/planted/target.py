"""The reference with bugs in it: the bench that mutators and oracles are proved on."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from loadfuzz.abc import Subject, Target
from loadfuzz.bench.truth import BugRow, Met
from loadfuzz.inputs import Seed
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site, combined
from loadfuzz_targets.planted.cmemory import Heap
from loadfuzz_targets.planted.manifest import BUGS
from loadfuzz_targets.planted.truth import GroundTruth
from loadfuzz_targets.reference import ReferenceTarget
from loadfuzz_targets.subject import MachineSubject
from savevm.board import FULL, machine_with
from savevm.devices.base import SimDevice
from savevm.document import Document
from savevm.load import Loader
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.ram.load import RAMLoader

FIXED_IN_TWIN: str = "differential"
"""Bugs that this oracle is to find are mended in the twin: a loader is compared
with its next release, which has all of its other bugs still."""


class PlantedSubject(MachineSubject):
    """A machine with bugs and a C heap (:class:`loadfuzz.abc.Subject`).

    Args:
        machine: is loaded into; nobody else may touch it.
        heap: its C memory.
        loader: serves one load.
        reader: reads the stream.
    """

    def __init__(
        self,
        machine: Machine,
        heap: Heap,
        *,
        loader: type[Loader],
        reader: type[QEMUFileReader],
    ) -> None:
        super().__init__(machine, loader=loader, reader=reader)
        self._heap = heap

    def reset(self) -> None:
        """Back to the state at the start; the heap is a new one, too."""
        super().reset()
        self._heap.reset()

    def resources(self) -> Mapping[str, int]:
        """The machine's, and blocks of the heap."""
        return {**super().resources(), "heap blocks": self._heap.live}

    def damages(self) -> Sequence[str]:
        """Blocks of the heap past whose ends somebody has written."""
        return self._heap.damages()


class PlantedTarget:
    """The reference loader with some bugs (:class:`loadfuzz.abc.Target`).

    Args:
        bugs: which ones; all by default.
        name: as on the command line.
    """

    instrument: Sequence[str] = ("savevm", "loadfuzz_targets")

    def __init__(self, bugs: Sequence[PlantedBug] = BUGS, name: str = "planted") -> None:
        self.name = name
        self.bugs = tuple(bugs)
        self.summary = (
            f"the reference with {len(self.bugs)} planted bugs"
            if len(self.bugs) != 1
            else f"the reference with a planted bug: {self.bugs[0].row.trigger}"
        )
        self._truth = GroundTruth([bug.name for bug in self.bugs])
        # Streams are looked at without the bugs: a look that shared them would see nothing.
        self._reference = ReferenceTarget()

    def variant(self, name: str) -> "PlantedTarget":
        """The target ``planted:NAME`` with one of our bugs alone.

        Raises:
            KeyError: we have no such bug.
        """
        bug = {bug.name: bug for bug in self.bugs}[name]
        return PlantedTarget((bug,), f"{self.name}:{name}")

    def variants(self) -> tuple[str, ...]:
        """Names of our bugs: each is the name of the target with it alone."""
        return tuple(bug.name for bug in self.bugs)

    def twin(self) -> Target:
        """The next release: see :data:`FIXED_IN_TWIN`."""
        left = tuple(bug for bug in self.bugs if bug.row.oracle != FIXED_IN_TWIN)
        return PlantedTarget(left, f"{self.name}'s twin")

    def bug_rows(self) -> tuple[BugRow, ...]:
        """The manifest of our bugs (:class:`loadfuzz.bench.truth.KnowsBugs`)."""
        return tuple(bug.row for bug in self.bugs)

    def take_met(self) -> Met:
        """Which bugs any subject of ours has met since the last call."""
        return self._truth.take()

    def open(self) -> Subject:
        """A loader with a fresh machine, bugs and all."""
        heap = Heap()
        parts = [bug.plant(Site(self._truth.canary(bug.name), heap)) for bug in self.bugs]
        machine = machine_with(*FULL, replace=_devices(parts))
        if machine.ram is not None:
            machine.ram.loader = combined(RAMLoader, (part.ram for part in parts))
        for part in parts:
            if part.prepare is not None:
                part.prepare(machine)
        return PlantedSubject(
            machine,
            heap,
            loader=combined(Loader, (part.loader for part in parts)),
            reader=combined(QEMUFileReader, (part.reader for part in parts)),
        )

    def seeds(self) -> Iterable[Seed]:
        """The reference's own."""
        return self._reference.seeds()

    def parse(self, stream: bytes) -> Document:
        """The stream as the reference without bugs understands it."""
        return self._reference.parse(stream)


def _devices(parts: Iterable[Parts]) -> Mapping[str, Callable[[], SimDevice]]:
    replaced: dict[str, list[type[SimDevice]]] = {}
    for part in parts:
        for name, device in part.devices.items():
            replaced.setdefault(name, []).append(device)
    return {name: combined(SimDevice, them) for name, them in replaced.items()}
