"""A story before it happens: what is asked of each migration, and what is done to it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.simulation.guest import GuestPace
from loadfuzz.simulation.network import Link
from savevm.migration import MigrationParameters

NS_PER_MS: Final = 1_000_000
ROUNDS_MAX: Final = 60
"""Rounds after which a simulated migration has not converged."""


class Deed(StrEnum):
    """What an operator, or fate, does in the midst of a migration."""

    CANCEL = "cancel"
    KILL_SOURCE = "kill-source"
    KILL_DESTINATION = "kill-destination"
    STOP = "stop"
    CONT = "cont"


@dataclass(frozen=True, slots=True)
class Act:
    """A deed before a step.

    Attributes:
        deed: what.
        step: how often the two sides have run before, in this attempt.
    """

    deed: Deed
    step: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One migration.

    Attributes:
        parameters: what is asked of it.
        link: the connection.
        faults: what goes wrong with the connection.
        acts: what is done meanwhile.
        autostart: the destination runs as soon as it can; otherwise it waits for the
            operator (``-S``), who knows what became of both sides.
        answered: the source waits for the destination's word (QEMU's return path).
        reuses: a destination whose load failed before is used again.
        wakes: a cancel shuts the connection down, as QEMU does; otherwise the source
            notices when it looks.
        patience_ns: how long the operator waits until doing something about a migration
            that does not end.
        impatience: what is done then: ``STOP`` or ``CANCEL``.
        pages_per_iterate: pages that one round may carry.
    """

    parameters: MigrationParameters
    link: Link
    faults: FaultPlan = NO_FAULTS
    acts: tuple[Act, ...] = ()
    autostart: bool = False
    answered: bool = False
    reuses: bool = False
    wakes: bool = True
    patience_ns: int = 400 * NS_PER_MS
    impatience: Deed = Deed.STOP
    pages_per_iterate: int = 3


CLEAN: Final = Attempt(
    MigrationParameters(max_bandwidth=0, downtime_limit_ms=10_000, rounds_max=ROUNDS_MAX),
    Link(16_384, 32_768, 1_000_000),
)
"""The attempt that has to succeed: nothing goes wrong, and all the downtime it may take."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a story is made from.

    Attributes:
        kind: of machine, see :data:`~loadfuzz.simulation.machines.KINDS`.
        xbzrle: pages are sent as differences.
        paused: the source's guest does not run when the story begins.
        vmdesc: streams describe themselves at their end.
        pace: of the guest.
        attempts: at least one.
        schedule: decisions of the schedule, a byte each.
        seed: of those behind its end, 0 for "first come, first served".
    """

    kind: str
    pace: GuestPace
    attempts: tuple[Attempt, ...]
    xbzrle: bool = False
    paused: bool = False
    vmdesc: bool = False
    schedule: bytes = b""
    seed: int = 0

    def __str__(self) -> str:
        words = [
            self.kind,
            *(name for name in ("xbzrle", "paused", "vmdesc") if getattr(self, name)),
        ]
        told = "; ".join(map(_words, self.attempts))
        return f"{' '.join(words)}: {told}"


def _words(attempt: Attempt) -> str:
    parts = [str(fault) for fault in attempt.faults.faults]
    parts += [f"{act.deed}@step:{act.step}" for act in attempt.acts]
    flags = {
        "autostart": attempt.autostart, "answered": attempt.answered, "reuses": attempt.reuses,
    }  # fmt: skip
    parts += [name for name, given in flags.items() if given]
    return " ".join(parts) or "plain"
