"""What happened: how each attempt ended, what was broken, and every event in order."""

from dataclasses import dataclass
from hashlib import blake2b

from loadfuzz.faults.plan import Fault
from loadfuzz.findings import Violation
from loadfuzz.simulation.scenario import Act

Happening = tuple[int, str, str, int]
"""Virtual nanoseconds, who, what, and a number that goes with it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        source, destination: their migration status, or ``killed``.
        source_error, destination_error: why they failed, where they did.
        struck: the transport faults that happened.
        done: the acts that were done.
        steps: how often either side ran.
        sent: bytes that went into the connection.
        both: both completed: the destination has the guest.
    """

    source: str
    destination: str
    source_error: str
    destination_error: str
    struck: tuple[Fault, ...]
    done: tuple[Act, ...]
    steps: int
    sent: int
    both: bool


@dataclass(frozen=True, slots=True)
class Story:
    """What happened.

    Attributes:
        endings: of every attempt, in order.
        violations: at most one: the first ends the story.
        lost: a kill has cost the guest.
        events: everything, in order.
    """

    endings: tuple[Ending, ...]
    violations: tuple[Violation, ...]
    lost: bool
    events: tuple[Happening, ...]

    @property
    def digest(self) -> str:
        """Of all that happened: equal for equal stories."""
        text = repr((self.endings, self.violations, self.lost, self.events))
        return blake2b(text.encode(), digest_size=16).hexdigest()
