"""The reference with bugs in it: the bench that oracles are proved on."""

from collections.abc import Iterable, Sequence

from loadfuzz.abc import Subject
from loadfuzz.inputs import Seed
from loadfuzz_targets.planted.bug import PlantedBug, combined
from loadfuzz_targets.planted.manifest import BUGS
from loadfuzz_targets.reference import ReferenceTarget
from loadfuzz_targets.subject import MachineSubject
from savevm.board import FULL, machine_with
from savevm.devices.base import SimDevice
from savevm.document import Document
from savevm.load import Loader
from savevm.qemufile import QEMUFileReader


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
            else f"the reference with a planted bug: {self.bugs[0].trigger}"
        )
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

    def open(self) -> Subject:
        """A loader with a fresh machine, bugs and all."""
        replaced: dict[str, list[type[SimDevice]]] = {}
        for bug in self.bugs:
            for name, device in bug.devices.items():
                replaced.setdefault(name, []).append(device)
        machine = machine_with(
            *FULL, replace={name: combined(SimDevice, them) for name, them in replaced.items()}
        )
        return MachineSubject(
            machine,
            loader=combined(Loader, (bug.loader for bug in self.bugs)),
            reader=combined(QEMUFileReader, (bug.reader for bug in self.bugs)),
        )

    def seeds(self) -> Iterable[Seed]:
        """The reference's own."""
        return self._reference.seeds()

    def parse(self, stream: bytes) -> Document:
        """The stream as the reference without bugs understands it."""
        return self._reference.parse(stream)
