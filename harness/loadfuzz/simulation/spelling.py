"""How a byte string says a story.

Every byte string is a scenario: what it has no bytes for is zero, which is the plainest case,
and every number is taken modulo what there is.  Records have fixed places, so that a mutated
byte changes one thing::

    header  12 bytes: a stream's magic (4), machine, flags, guest, attempts, seed of the schedule
                      (2), 2 unused
    attempt 24 bytes: bandwidth, downtime, pipe, link, flags, patience, 2 acts of 3, 3 faults of 4
    ... as many attempts as :data:`ATTEMPTS_MAX` says, used or not
    the rest: decisions of the schedule, a byte each

An act is a kind and a 16-bit step; a fault is a kind, a 16-bit place and an amount.
"""

from typing import Final

from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, Place
from loadfuzz.simulation.guest import GuestPace
from loadfuzz.simulation.machines import KINDS
from loadfuzz.simulation.network import Link
from loadfuzz.simulation.scenario import NS_PER_MS, ROUNDS_MAX, Act, Attempt, Deed, Scenario
from savevm.constants import QEMU_VM_FILE_MAGIC
from savevm.migration import MigrationParameters

MAGIC: Final = QEMU_VM_FILE_MAGIC.to_bytes(4, "big")
"""How a story begins, so that it passes for a stream; nobody looks at it."""
HEADER_BYTES: Final = 12
ATTEMPT_BYTES: Final = 24
ATTEMPTS_MAX: Final = 2
"""Attempts under faults; a last one without follows where the last of these fails."""
ACTS: Final = 2
FAULTS: Final = 3
SCHEDULE_AT: Final = HEADER_BYTES + ATTEMPTS_MAX * ATTEMPT_BYTES
"""Where the decisions of the schedule begin."""
NS_PER_US: Final = 1_000
STEPS_SPAN: Final = 64
"""Steps at which an operator may act: most migrations here have 5 to 60."""
KINDS_SPAN: Final = 32
"""Values of a byte that stands for a kind of fault; those beyond the kinds are none, so that
four in ten are."""
READS_SPAN: Final = 40
WRITES_SPAN: Final = 24

_KINDS: Final = tuple(KINDS)
_COARSE: Final = 14
"""Bytes from one place to the next beyond the first 4 kB of a stream."""
_TICKS_US: Final = (1_000, 300, 4_000, 20_000)
_STEPS: Final = (1, 0, 3, 6)
_WRITES: Final = (1, 0, 3, 8)
_BANDWIDTHS: Final = (2_000_000, 400_000, 0, 100_000, 1 << 20)
_DOWNTIMES_MS: Final = (30, 300, 5, 1, 0, 100)
_PERIODS_OF_RATE_MS: Final = (10, 100)
_CAPACITIES: Final = (16_384, 4096, 65_536, 512)
_PIECES: Final = (32_768, 4096, 1448, 700)
_RATES: Final = (1_000_000, 4_000_000, 200_000, 0)
_PATIENCES_MS: Final = (400, 50, 1000, 2500)
_PAGES_PER_ITERATE: Final = (3, 16_384)
_STALLS_MS: Final = (100, 1, 20, 400, 2000, 6000)
_SLOW: Final = (20_000, 2_000, 200_000, 1_000_000)


def decode(stream: bytes) -> Scenario:
    """The scenario that ``stream`` says; total."""
    head = stream[:SCHEDULE_AT].ljust(SCHEDULE_AT, b"\0")
    machine, flags, guest, attempts = head[4:8]
    count = 1 + attempts % ATTEMPTS_MAX
    return Scenario(
        kind=_KINDS[machine % len(_KINDS)],
        pace=GuestPace(
            _pick(_TICKS_US, guest) * NS_PER_US, _pick(_STEPS, guest >> 2),
            _pick(_WRITES, guest >> 4),
        ),
        attempts=tuple(
            _attempt(head[HEADER_BYTES + number * ATTEMPT_BYTES :][:ATTEMPT_BYTES])
            for number in range(count)
        ),
        xbzrle=bool(flags & 1),
        paused=flags & 0xE == 0xE,
        vmdesc=bool(flags & 0x10),
        schedule=stream[SCHEDULE_AT:],
        seed=int.from_bytes(head[8:10], "big"),
    )  # fmt: skip


def _pick(table: tuple[int, ...], value: int) -> int:
    return table[value % len(table)]


def _attempt(record: bytes) -> Attempt:
    flags = record[4]
    answered = bool(flags & 1)
    return Attempt(
        parameters=MigrationParameters(
            max_bandwidth=_pick(_BANDWIDTHS, record[0]),
            downtime_limit_ms=_pick(_DOWNTIMES_MS, record[1]),
            rounds_max=ROUNDS_MAX,
            period_ms=_pick(_PERIODS_OF_RATE_MS, record[3] >> 4),
        ),
        link=Link(
            _pick(_CAPACITIES, record[2]), _pick(_PIECES, record[2] >> 4), _pick(_RATES, record[3])
        ),
        faults=FaultPlan(tuple(_faults(record[12:]))),
        acts=tuple(sorted(_acts(record[6:12]), key=lambda act: act.step)),
        # With both, a lost answer leaves two guests running: QEMU's own documents say -S.
        autostart=bool(flags & 2) and not answered,
        answered=answered,
        reuses=bool(flags & 4),
        wakes=not flags & 8,
        patience_ns=_pick(_PATIENCES_MS, record[5]) * NS_PER_MS,
        impatience=Deed.CANCEL if record[5] & 0x80 else Deed.STOP,
        pages_per_iterate=_pick(_PAGES_PER_ITERATE, flags >> 4),
    )


_DEEDS: Final = (None, *Deed, None)


def _acts(record: bytes) -> list[Act]:
    acts: list[Act] = []
    for at in range(0, 3 * ACTS, 3):
        deed = _DEEDS[record[at] % len(_DEEDS)]
        if deed is not None:
            acts.append(Act(deed, int.from_bytes(record[at + 1 : at + 3], "big") % STEPS_SPAN))
    return acts


_AT: Final[tuple[tuple[FaultKind, PlaceKind], ...]] = (
    (FaultKind.RESET, PlaceKind.BYTE),
    (FaultKind.CLOSE, PlaceKind.BYTE),
    (FaultKind.EIO, PlaceKind.BYTE),
    (FaultKind.HALF_CLOSE, PlaceKind.BYTE),
    (FaultKind.RESET, PlaceKind.WRITE),
    (FaultKind.EIO, PlaceKind.WRITE),
    (FaultKind.STALL, PlaceKind.BYTE),
    (FaultKind.STALL, PlaceKind.READ),
    (FaultKind.SHORT_READ, PlaceKind.READ),
    (FaultKind.EAGAIN, PlaceKind.READ),
    (FaultKind.SLOW, PlaceKind.BYTE),
    (FaultKind.BIT_FLIP, PlaceKind.BYTE),
    (FaultKind.DUPLICATE, PlaceKind.BYTE),
    (FaultKind.REORDER, PlaceKind.BYTE),
    (FaultKind.ZERO_TAIL, PlaceKind.BYTE),
    (FaultKind.RESET, PlaceKind.READ),
    (FaultKind.EIO, PlaceKind.READ),
    (FaultKind.CLOSE, PlaceKind.READ),
)


def _faults(record: bytes) -> list[Fault]:
    faults: list[Fault] = []
    for at in range(0, 4 * FAULTS, 4):
        chosen = record[at] % KINDS_SPAN
        if not 0 < chosen <= len(_AT):
            continue
        kind, where = _AT[chosen - 1]
        number = _offset(int.from_bytes(record[at + 1 : at + 3], "big"))
        if where is PlaceKind.READ:
            number %= READS_SPAN
        elif where is PlaceKind.WRITE:
            number %= WRITES_SPAN
        faults.append(Fault.of(kind, Place(where, number), _amount(kind, record[at + 3])))
    return faults


def _offset(word: int) -> int:
    """A place in a stream: half of all words are anywhere in the first 56 kB, the others in the
    first 4 kB or less, where a stream without RAM ends."""
    scale, number = word >> 12, word & 0xFFF
    return number * _COARSE + (scale & 7) if scale & 8 else number >> (scale & 3)


def _amount(kind: FaultKind, value: int) -> int | None:
    match kind:
        case FaultKind.STALL:
            return _pick(_STALLS_MS, value)
        case FaultKind.SLOW:
            return _pick(_SLOW, value)
        case FaultKind.SHORT_READ:
            return 1 + value
        case FaultKind.EAGAIN:
            return 1 + value % 8
        case FaultKind.DUPLICATE | FaultKind.REORDER:
            return 1 + 4 * value
        case FaultKind.BIT_FLIP:
            return value % 8
        case _:
            return None


# -- the other way round: for seeds and tests -----------------------------------------------------


def encode(
    *attempts: bytes,
    kind: str = _KINDS[0],
    xbzrle: bool = False,
    paused: bool = False,
    vmdesc: bool = False,
    guest: int = 0,
    seed: int = 0,
    schedule: bytes = b"",
) -> bytes:
    """A byte string that says a scenario.

    Args:
        attempts: as :func:`encode_attempt` makes them, one to :data:`ATTEMPTS_MAX`.
        kind, xbzrle, paused, vmdesc, seed, schedule: as in :class:`Scenario`.
        guest: how busy it is, 0 to 63.
    """
    flags = xbzrle | 0xE * paused | 0x10 * vmdesc
    head = MAGIC + bytes((_KINDS.index(kind), flags, guest, max(len(attempts), 1) - 1))
    head += seed.to_bytes(2, "big")
    return (head.ljust(HEADER_BYTES, b"\0") + b"".join(attempts)).ljust(
        SCHEDULE_AT, b"\0"
    ) + schedule


def encode_attempt(
    *,
    bandwidth: int = 0,
    downtime: int = 0,
    pipe: int = 0,
    link: int = 0,
    flags: int = 0,
    patience: int = 0,
    acts: tuple[Act, ...] = (),
    faults: tuple[tuple[FaultKind, PlaceKind, int, int], ...] = (),
) -> bytes:
    """The record of an attempt.

    Args:
        bandwidth, downtime, pipe, link, flags, patience: the record's bytes.
        acts: at most :data:`ACTS`.
        faults: at most :data:`FAULTS`: kind, how the place is counted, place, and the byte
            that says the amount.  A place beyond the first 4 kB is rounded.
    """
    record = bytes((bandwidth, downtime, pipe, link, flags, patience))
    for act in acts:
        record += bytes((_DEEDS.index(act.deed),)) + act.step.to_bytes(2, "big")
    record = record.ljust(ATTEMPT_BYTES - 4 * FAULTS, b"\0")
    for fault, where, number, amount in faults:
        word = number if number < 1 << 12 else 0x8000 | min(number // _COARSE, 0xFFF)
        record += bytes((1 + _AT.index((fault, where)),)) + word.to_bytes(2, "big")
        record += bytes((amount,))
    return record.ljust(ATTEMPT_BYTES, b"\0")
