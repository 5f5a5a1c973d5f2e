"""Trials written down by hand, for tests of oracles: ours, and of your own.

:class:`ScriptedTrial` answers everything that an oracle may ask
(:class:`loadfuzz.abc.Trial`) with what a good loader would, until a field says otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadfuzz.abc import Growth, GuestRun, Subject
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Outcome, Refusal
from loadfuzz.executors.guard import SubjectError
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan
from loadfuzz.findings import Violation
from loadfuzz.inputs import Delivery, Input, Seed
from savevm.document import Document
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

VMSD: Final = VMStateDescription("pair", 1, 1, fields=(fields.uint32("a"), fields.uint32("b")))


def machine() -> Machine:
    """One device, ``pair``, with two integers."""
    made = Machine()
    made.savevm.vmstate_register(None, 0, VMSD, State(a=1, b=2))
    return made


GOOD: Final = save_to_bytes(machine())


class ParsingTarget:
    """A target of which oracles need only the look at a stream."""

    name = "scripted"
    summary = "trials written by hand"
    instrument: Sequence[str] = ()

    def open(self) -> Subject:
        raise AssertionError("no oracle opens a subject")

    def seeds(self) -> Iterable[Seed]:
        return ()

    def parse(self, stream: bytes) -> Document:
        return Document.parse(stream, machine)


@dataclass
class ScriptedTrial:
    """A trial whose every answer is written down."""

    execution: Execution
    stream: bytes = GOOD
    digest_before: str = "pair=1 ram=1"
    digest_after: str = "pair=1 ram=1"
    saves: bytes = GOOD
    reloaded: Outcome | None = None
    saves_again: bytes | None = None
    repeats: dict[Delivery, Outcome] = field(default_factory=dict)
    others: dict[bytes, Outcome] = field(default_factory=dict)
    histories: dict[tuple[bytes, ...], Outcome] = field(default_factory=dict)
    impossible: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    more: bool = False
    happened: tuple[Fault, ...] = ()
    told: tuple[Violation, ...] = ()
    plan: FaultPlan = NO_FAULTS
    guest: GuestRun | None = field(default_factory=lambda: GuestRun((), (), GOOD))
    peak: int = 1000
    grown: Growth | None = field(default_factory=lambda: Growth((), ()))
    twin: Outcome | None = None
    target: ParsingTarget = field(default_factory=ParsingTarget)

    @property
    def input(self) -> Input:
        return Input(self.stream, faults=self.plan)

    def document(self) -> Document:
        return self.target.parse(self.stream)

    def saved(self) -> bytes:
        return self.saves

    def first(self) -> Outcome:
        refusal = self.execution.refusal
        return Outcome(self.execution.kind, refusal.text if refusal else "", self.digest_after)

    def repeat(self, stream: bytes, delivery: Delivery) -> Outcome:
        if stream != self.stream:
            return self.others.get(stream, Outcome(ExitKind.REJECTED, "cut off", "pair=1 ram=1"))
        return self.repeats.get(delivery, self.first())

    def faults(self) -> tuple[str, ...]:
        return self.impossible

    def damages(self) -> tuple[str, ...]:
        return self.broken

    def struck(self) -> tuple[Fault, ...]:
        return self.happened

    def violations(self) -> tuple[Violation, ...]:
        return self.told

    def holds_more(self) -> bool:
        return self.more

    def guest_run(self, steps: int) -> GuestRun:
        if self.guest is None:
            raise SubjectError("running the guest", ExitKind.CRASHED, ESCAPE)
        return self.guest

    def after(self, streams: Sequence[bytes]) -> Outcome:
        return self.histories.get(tuple(streams), self.first())

    def at_start(self) -> bytes:
        return GOOD

    def peak_bytes(self, allowed: int) -> int:
        return self.peak

    def growth(self) -> Growth | None:
        return self.grown

    def at_twin(self) -> Outcome | None:
        return self.first() if self.twin is None else self.twin

    def reload(self, stream: bytes) -> tuple[Outcome, bytes]:
        assert stream == self.saves
        outcome = self.reloaded or Outcome(ExitKind.ACCEPTED, "", self.digest_after)
        return outcome, self.saves if self.saves_again is None else self.saves_again


REFUSAL: Final = Refusal(
    "pair: footer: expected mark 0x7e, read 0x0 (offset 0x21)", 22, 0x21, ("pair",)
)
ESCAPE: Final = Escape(
    "IndexError", "tuple index out of range", ("load.py:load:9", "rtc.py:derive:254")
)
ACCEPTED: Final = ScriptedTrial(Execution(ExitKind.ACCEPTED, Depth.ACCEPTED))
UNMARKED: Final = GOOD.replace(b"\x7e", b"\0")
"""No footer begins with its mark: a stream that is rightly refused."""
REJECTED: Final = ScriptedTrial(
    Execution(ExitKind.REJECTED, Depth.FIRST_SECTION, refusal=REFUSAL), stream=UNMARKED
)
CRASHED: Final = ScriptedTrial(Execution(ExitKind.CRASHED, Depth.FIRST_SECTION, escape=ESCAPE))
TIMED_OUT: Final = ScriptedTrial(Execution(ExitKind.TIMED_OUT, Depth.FIRST_SECTION, escape=ESCAPE))
STARVED: Final = ScriptedTrial(Execution(ExitKind.OUT_OF_MEMORY, Depth.HEADER))
