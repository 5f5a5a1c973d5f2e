"""The target ``migration``: two machines, a guest, an operator and a network, simulated.

What is fuzzed is not a stream but a story: every byte string says one
(:mod:`loadfuzz.simulation.spelling`), and what is told is what became of its first migration.
It is accepted when both sides have completed it; a migration that failed cleanly is a refusal.
What a migration promises (:mod:`loadfuzz.simulation.promises`) is looked at during the story
and after it, and what was broken is told by ``MigrationSubject.violations``.

``migration:NAME`` has one bug planted (:mod:`loadfuzz_targets.migration_bugs`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadfuzz.abc import Subject
from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.inputs import WHOLE, Seed
from loadfuzz.simulation.layout import document_of
from loadfuzz.simulation.scenario import Act, Deed
from loadfuzz.simulation.spelling import decode, encode, encode_attempt
from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.migration_bugs import BUGS, MigrationBug, bug_named
from loadfuzz_targets.migration_subject import MigrationSubject, under
from savevm.document import Document
from savevm.errors import LoadError

NAME: Final = "migration"
ORIGIN: Final = "loadfuzz"


@dataclass(frozen=True, slots=True)
class MigrationTarget:
    """Stories of live migration (:class:`loadfuzz.abc.Target`).

    Attributes:
        name: ``migration``, or ``migration:BUG``.
        bug: the one that is planted, if any.
    """

    name: str = NAME
    bug: MigrationBug | None = None

    @property
    def summary(self) -> str:
        """One line about it."""
        if self.bug is None:
            return "simulated live migration: two machines, a guest, an operator, a network"
        return f"simulated live migration with a planted bug: {self.bug.what}"

    @property
    def instrument(self) -> Sequence[str]:
        """What Atheris measures: the reference, and the story around it."""
        return ("savevm",)

    def open(self) -> Subject:
        """A teller of stories."""
        return MigrationSubject(PLAIN, self.bug)

    def seeds(self) -> Iterable[Seed]:
        """Stories whose first migration succeeds."""
        for name, stream in _SEEDS.items():
            yield Seed(f"migration-{name}", stream, ORIGIN)

    def parse(self, stream: bytes) -> Document:
        """The story as a Document of its own kind (:mod:`loadfuzz.simulation.layout`)."""
        return document_of(stream)

    def operators(self) -> Mapping[str, int]:
        """Those that change numbers and bytes; a story has no sections."""
        return {"field-*": 1, "raw*": 1}

    def variant(self, name: str) -> "MigrationTarget":
        """The target with a bug planted.

        Raises:
            KeyError: there is no such bug.
        """
        return MigrationTarget(f"{NAME}:{name}", bug_named(name))

    def variants(self) -> Sequence[str]:
        """Names of the bugs."""
        return tuple(bug.name for bug in BUGS)


def told(stream: bytes, faults: FaultPlan = NO_FAULTS) -> str:
    """The story of an input in words, a line for each thing that happens."""
    subject = MigrationSubject(PLAIN)
    try:
        subject.load_under(stream, WHOLE, faults, None)
    except LoadError as error:
        outcome = f"refused: {error}"
    else:
        outcome = "accepted"
    story = subject.story()
    lines = [str(under(decode(stream), faults))]
    if story is not None:
        lines += [f"{ns / 1e6:10.3f} ms  {who}: {what} {n}" for ns, who, what, n in story.events]
        lines += [f"broken: {violation.title}" for violation in story.violations]
    return "\n".join((*lines, outcome))


_RESET: Final = (FaultKind.RESET, PlaceKind.BYTE)
_HALF_CLOSE: Final = (FaultKind.HALF_CLOSE, PlaceKind.BYTE)
_STALL: Final = (FaultKind.STALL, PlaceKind.READ)
_EIO: Final = (FaultKind.EIO, PlaceKind.WRITE)
_ANSWERED, _AUTOSTART, _REUSES = 1, 2, 4
PLAIN: Final = encode(encode_attempt())
_SEEDS: Final[Mapping[str, bytes]] = {
    "plain": PLAIN,
    "described": encode(encode_attempt(), kind="small", vmdesc=True, seed=1),
    "busy-guest": encode(encode_attempt(bandwidth=1, downtime=2), guest=0b110000, xbzrle=True),
    "answered": encode(encode_attempt(flags=_ANSWERED, pipe=0x13), kind="small", seed=1),
    "autostart": encode(encode_attempt(flags=_AUTOSTART, pipe=1), kind="memdev", seed=2),
    "there-and-back": encode(encode_attempt(link=1), encode_attempt(pipe=2), seed=3),
    "then-reset": encode(
        encode_attempt(), encode_attempt(flags=_REUSES, faults=((*_RESET, 9_000, 0),)), xbzrle=True
    ),
    "then-cancelled": encode(
        encode_attempt(), encode_attempt(acts=(Act(Deed.CANCEL, 6),), pipe=0x23), seed=4
    ),
    "then-killed": encode(
        encode_attempt(), encode_attempt(flags=_ANSWERED, acts=(Act(Deed.KILL_DESTINATION, 9),))
    ),
    "then-unheard": encode(
        encode_attempt(), encode_attempt(faults=((*_HALF_CLOSE, 16_000, 0),)), vmdesc=True, seed=5
    ),
    "then-unwritten": encode(
        encode_attempt(flags=_AUTOSTART), encode_attempt(faults=((*_EIO, 5, 0),)), kind="none"
    ),
    "then-cut-off": encode(
        encode_attempt(), encode_attempt(faults=((*_RESET, 900, 0),)), kind="none", vmdesc=True
    ),
    "stalls": encode(encode_attempt(faults=((*_STALL, 2, 3),), pipe=1), kind="small", seed=6),
    "stopped": encode(encode_attempt(acts=(Act(Deed.STOP, 3), Act(Deed.CONT, 9)), pipe=1)),
    "paused": encode(encode_attempt(), paused=True, kind="none", vmdesc=True),
}

TARGET: Final = MigrationTarget()

test_migration = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
