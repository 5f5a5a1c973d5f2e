"""The reference's loader on a machine that a given stream is from.

A stream of a stock QEMU names devices that the reference's machines do not
have.  Its vmdesc says what they are made of, so a machine is built from it:
with those devices, that machine type and that RAM, and as strict about them as
about its own.  It begins in the state that the stream carries.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from loadfuzz.abc import Subject
from loadfuzz.fitting import SEPARATOR
from loadfuzz.inputs import Seed
from loadfuzz_targets.page_image import PageImage
from loadfuzz_targets.subject import MachineSubject
from savevm.document import Document
from savevm.errors import LoadError
from savevm.foreign import foreign_machine
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.ram.schedule import SaveSchedule
from savevm.save import save_to_bytes

CONFIGURATION_MAX: Final = 4096
"""Bytes at the start of a stream that have its configuration in them."""


class ForeignSubject(MachineSubject):
    """A machine built from a stream (:class:`loadfuzz.abc.Subject`).

    Args:
        machine: made by :func:`strict_foreign_machine`.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        ram = machine.ram
        self._schedule = ram.incoming.schedule if ram is not None else SaveSchedule()
        if ram is not None:
            self._memory = PageImage(ram)

    def save(self) -> bytes:
        """The present state, its RAM in the pieces and the order of the stream the
        machine was built from: unchanged, it is that stream bit for bit."""
        ram = self.machine.ram
        if ram is None:
            return save_to_bytes(self.machine)
        before = ram.incoming
        ram.incoming = before.for_next_load()
        ram.incoming.schedule = self._schedule
        ram.adopt = True
        try:
            return save_to_bytes(self.machine)
        finally:
            ram.adopt = False
            ram.incoming = before


def strict_foreign_machine(stream: bytes) -> Machine:
    """The machine that ``stream`` is from, in the state it carries.

    It adopted machine type, section ids and RAM from that stream, and takes
    them from no other.

    Raises:
        LoadError: the stream does not describe itself, or does not load.
    """
    machine = foreign_machine(stream)
    load_from_bytes(machine, stream)
    machine.adopts = False
    if machine.ram is not None:
        machine.ram.adopt = False
    return machine


class ForeignTarget:
    """The reference loader, fitted to a stream (:class:`loadfuzz.abc.Target`).

    Args:
        base: name of the target that is fitted.
        seed: the stream; its origin is a file that has it.

    Raises:
        LoadError: no machine can be built from it.
    """

    instrument: Sequence[str] = ("savevm",)

    def __init__(self, base: str, seed: Seed) -> None:
        self._seed = seed
        # Built once here, so that an unfit stream is noticed at once.
        self._first: Machine | None = strict_foreign_machine(seed.stream)
        self._scratch: Machine | None = None
        self.name = f"{base}{SEPARATOR}{seed.origin}"
        self.summary = f"the reference loader, on the machine {self._first.machine_type!r}"

    def open(self) -> Subject:
        """A loader with a fresh machine."""
        machine, self._first = self._first, None
        return ForeignSubject(machine or strict_foreign_machine(self._seed.stream))

    def seeds(self) -> Iterable[Seed]:
        """The stream that the machine was built from."""
        return (self._seed,)

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document, laid out as that machine's devices are."""
        return Document.parse(stream, self._machine_for_looking)

    def _machine_for_looking(self) -> Machine:
        # A parse puts the machine back as it was, so one serves all of them.
        if self._scratch is None:
            self._scratch = foreign_machine(self._seed.stream, store=False)
        return self._scratch


def fit(base: str, own_machine: str, seeds: Sequence[Seed]) -> ForeignTarget | None:
    """A target for streams of other machines than one's own.

    Args:
        base: name of one's own target.
        own_machine: type of its machine.
        seeds: what is to be fuzzed.

    Returns:
        A target for the machine of the first seed of which one can be built;
        ``None`` if there is none, or if a seed is from one's own machine.
    """
    if any(machine_type_of(seed.stream) == own_machine for seed in seeds):
        return None
    for seed in seeds:
        try:
            return ForeignTarget(base, seed)
        except LoadError:
            continue
    return None


def machine_type_of(stream: bytes) -> str | None:
    """The machine type that a stream's configuration names, if it has one."""
    configuration = Document.parse(stream[:CONFIGURATION_MAX]).configuration
    if configuration is None:
        return None
    for leaf in configuration.leaves():
        if leaf.name == "name" and isinstance(leaf.value, bytes):
            return leaf.value.decode("latin-1")
    return None
