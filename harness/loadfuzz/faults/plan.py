"""A plan: which faults strike one input, where, how strongly.

A plan is part of the :class:`~loadfuzz.inputs.Input`, so a finding holds it and depends
on nothing else: places are offsets and counts, and time is virtual.  For people and the
command line a fault is one word::

    reset@byte:4711      stall@section:3=2000      disk-eio@disk:disk1/create#0

KIND, ``@``, how the place is counted, ``:``, the place, and ``=`` with the amount in the
kind's unit where it has one.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from loadfuzz.errors import UsageError
from loadfuzz.faults.kinds import KINDS, Expectation, FaultKind, Layer, PlaceKind

FAULTS_MAX: Final = 16
"""Faults of one plan: what takes more at once to go wrong, nobody will ever debug."""
NUMBER_MAX: Final = 1 << 40
"""Largest offset or count of a place: beyond any stream, within any JSON reader's integers."""
DEADLINE_MS: Final = 5_000
"""Virtual milliseconds that a delivery may take until its reader gives up."""

NAMED: Final = frozenset({PlaceKind.FIELD, PlaceKind.DISK, PlaceKind.CALL})
"""Places that have a name; those that count calls have a number, too."""
_TEXT: Final = re.compile(
    r"(?P<kind>[a-z-]+)@(?P<place>[a-z]+):(?P<what>[^=]+?)(?:=(?P<amount>\d{1,12})(?P<unit>[A-Za-z/]*))?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault strikes.

    Attributes:
        kind: how it is counted.
        number: the offset, or how many came before it; 0 for a field.
        name: path of the field, ``DISK/OPERATION``, ``DEVICE/HOOK``; else "".
    """

    kind: PlaceKind
    number: int = 0
    name: str = ""

    def __str__(self) -> str:
        if self.kind is PlaceKind.FIELD:
            return f"{self.kind}:{self.name}"
        if self.kind in NAMED:
            return f"{self.kind}:{self.name}#{self.number}"
        return f"{self.kind}:{self.number}"


def at_byte(offset: int) -> Place:
    """The byte at ``offset``."""
    return Place(PlaceKind.BYTE, offset)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what.
        place: where.
        amount: how much, in the kind's unit; 0 for a kind that has none.
        expectation: what must follow.
    """

    kind: FaultKind
    place: Place
    amount: int
    expectation: Expectation

    @classmethod
    def of(cls, kind: FaultKind, place: Place, amount: int | None = None) -> "Fault":
        """A fault with the kind's usual amount and expectation."""
        row = KINDS[kind]
        return cls(kind, place, row.amount_usual if amount is None else amount, row.expectation)

    @property
    def layer(self) -> Layer:
        """What it is done to."""
        return KINDS[self.kind].layer

    def __str__(self) -> str:
        amount = f"={self.amount}" if KINDS[self.kind].unit else ""
        return f"{self.kind}@{self.place}{amount}"

    def check(self) -> None:
        """Whether this can be carried out at all.

        Raises:
            UsageError: the kind does not go with the place, or a number is out of bounds.
        """
        row = KINDS[self.kind]
        if self.place.kind not in row.places:
            places = ", ".join(row.places)
            raise UsageError(f"{self.kind} strikes at {places}; not at {self.place.kind}")
        if not 0 <= self.place.number <= NUMBER_MAX:
            raise UsageError(f"{self}: a place is between 0 and {NUMBER_MAX}")
        if bool(self.place.name) != (self.place.kind in NAMED):
            raise UsageError(f"{self}: the place {'lacks a' if not self.place.name else 'has no'}"
                             " name")  # fmt: skip
        if not row.amount_min <= self.amount <= row.amount_max:
            raise UsageError(
                f"{self}: the amount is between {row.amount_min} and {row.amount_max} {row.unit}"
                if row.unit
                else f"{self.kind} has no amount"
            )


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one input.

    Attributes:
        faults: in no particular order; each strikes once at most.
        deadline_ms: virtual time until a reader gives up on a silent or slow peer.
    """

    faults: tuple[Fault, ...] = ()
    deadline_ms: int = DEADLINE_MS

    def __bool__(self) -> bool:
        return bool(self.faults)

    @property
    def expectation(self) -> Expectation:
        """What must follow from all together: the weakest promise of any."""
        expected = {fault.expectation for fault in self.faults}
        if Expectation.MUST_NOT_HARM in expected:
            return Expectation.MUST_NOT_HARM
        if Expectation.MUST_REJECT in expected or self.exceeds_deadline():
            return Expectation.MUST_REJECT
        return Expectation.MUST_NOT_MATTER

    def exceeds_deadline(self) -> bool:
        """Whether the silences alone take longer than the deadline."""
        stalls = sum(fault.amount for fault in self.faults if fault.kind is FaultKind.STALL)
        return stalls > self.deadline_ms

    def on(self, layer: Layer) -> tuple[Fault, ...]:
        """The faults of one layer."""
        return tuple(fault for fault in self.faults if fault.layer is layer)

    def without(self, fault: Fault) -> "FaultPlan":
        """The same with one fault less: a step of the reducer."""
        return replace(self, faults=tuple(other for other in self.faults if other is not fault))

    def check(self) -> None:
        """Whether it can be carried out.

        Raises:
            UsageError: it cannot; the text says why.
        """
        if len(self.faults) > FAULTS_MAX:
            raise UsageError(f"a plan has at most {FAULTS_MAX} faults, not {len(self.faults)}")
        if not 0 < self.deadline_ms <= NUMBER_MAX:
            raise UsageError("a deadline is at least one millisecond")
        for fault in self.faults:
            fault.check()

    def __str__(self) -> str:
        return " ".join(map(str, self.faults))


NO_FAULTS: Final = FaultPlan()


def fault_of(text: str) -> Fault:
    """The fault that ``text`` names, in the notation of this module.

    Raises:
        UsageError: it names none; the text says what would.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no fault; one looks like reset@byte:4711 or stall@read:3=100"
        )
    try:
        kind = FaultKind(match["kind"])
    except ValueError:
        raise UsageError(
            f"there is no fault {match['kind']!r}; there are {', '.join(FaultKind)}"
        ) from None
    amount: str | None = match["amount"]
    place = _place_of(match["place"], match["what"])
    unit = KINDS[kind].unit
    if match["unit"] and match["unit"] != unit:
        counted = f"in {unit}, as a whole number" if unit else "not at all"
        raise UsageError(f"{text!r}: the amount of {kind} is given {counted}")
    fault = Fault.of(kind, place, None if amount is None else int(amount))
    fault.check()
    return fault


def _place_of(kind_text: str, what: str) -> Place:
    try:
        kind = PlaceKind(kind_text)
    except ValueError:
        raise UsageError(
            f"a place is counted by {', '.join(PlaceKind)}; not by {kind_text!r}"
        ) from None
    if kind is PlaceKind.FIELD:
        return Place(kind, 0, what)
    name, _, number = what.rpartition("#") if "#" in what else (what, "", "0")
    if kind not in NAMED:
        name, number = "", what
    try:
        return Place(kind, int(number, 0), name)
    except ValueError:
        hint = ", as inspect lists them, from 0" if kind is PlaceKind.SECTION else ""
        raise UsageError(f"{number!r} is no number of a {kind}{hint}") from None
