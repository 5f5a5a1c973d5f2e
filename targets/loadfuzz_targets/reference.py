"""The target ``reference``: the reference's loader on a machine with every device."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from loadfuzz.abc import Subject, Target
from loadfuzz.inputs import Seed
from loadfuzz_targets.foreign import fit
from loadfuzz_targets.streams import reference_seeds
from loadfuzz_targets.subject import MachineSubject
from savevm.board import full_machine
from savevm.document import Document
from savevm.machine import Machine


class ReferenceTarget:
    """The reference loader (:class:`loadfuzz.abc.Target`).

    Args:
        name: as on the command line.
        summary: one line about it.
        make: a machine, the same every time.
    """

    instrument: Sequence[str] = ("savevm",)

    def __init__(
        self,
        name: str = "reference",
        summary: str = "the reference loader, on a machine with every device",
        make: Callable[[], Machine] = full_machine,
    ) -> None:
        self.name = name
        self.summary = summary
        self._make = make
        self._scratch: Machine | None = None

    def open(self) -> Subject:
        """A loader with a fresh machine."""
        return MachineSubject(self._make())

    def twin(self) -> Target:
        """The same loader, reading every field and page one by one."""
        return PlainReference(f"{self.name}'s plain twin", self.summary, self._make)

    def seeds(self) -> Iterable[Seed]:
        """Streams that machines with fewer and with all devices have saved."""
        return reference_seeds()

    def for_seeds(self, seeds: Sequence[Seed]) -> Target:
        """This target, or the reference's loader on the machine that ``seeds`` are
        from (:class:`loadfuzz.abc.FitsSeeds`)."""
        return fit(self.name, self._machine_for_looking().machine_type, seeds) or self

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document, laid out as the reference's devices are."""
        return Document.parse(stream, self._machine_for_looking)

    def _machine_for_looking(self) -> Machine:
        # A parse puts the machine back as it was, so one serves all of them.
        if self._scratch is None:
            self._scratch = self._make()
        return self._scratch


class PlainReference(ReferenceTarget):
    """The reference without its fast paths."""

    def open(self) -> Subject:
        """A loader with a fresh machine."""
        return MachineSubject(self._make(), plain=True)


TARGET: Final = ReferenceTarget()

if __name__ == "__main__":
    from loadfuzz.standalone.binary import main

    main(TARGET.name)
