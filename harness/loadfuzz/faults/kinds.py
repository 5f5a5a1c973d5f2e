"""Every kind of fault: where it strikes, what its amount means, what must follow.

One table, so that the mutators, the command line, the words of a report and the oracle
that checks the expectation cannot disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Expectation(StrEnum):
    """What must follow from a fault."""

    MUST_NOT_MATTER = "must-not-matter"
    """Verdict and state are those of the same load without the fault."""
    MUST_REJECT = "must-reject"
    """The load fails, cleanly."""
    MUST_NOT_HARM = "must-not-harm"
    """Any clean verdict; what fails leaves nothing behind, and nothing is lost."""


class Layer(StrEnum):
    """What a fault is done to."""

    TRANSPORT = "transport"
    STORAGE = "storage"
    DEVICE = "device"
    PROCESS = "process"


class PlaceKind(StrEnum):
    """How a place is counted."""

    BYTE = "byte"
    """Offset in the stream, as the peer sent it."""
    READ = "read"
    """n-th read of the transport, from 0."""
    WRITE = "write"
    """n-th write to the transport, from 0."""
    SECTION = "section"
    """Where the n-th section of the stream begins, from 0."""
    FIELD = "field"
    """Where the field of that path begins, as ``inspect`` prints it."""
    DISK = "disk"
    """n-th operation of that name on that disk: ``disk1/create``."""
    CALL = "call"
    """n-th call of that hook of that device: ``nic/post_load``."""
    STEP = "step"
    """n-th time that the operation could be interrupted: an await, a pause, a system call."""


class FaultKind(StrEnum):
    """What happens."""

    SHORT_READ = "short-read"
    STALL = "stall"
    EAGAIN = "eagain"
    SLOW = "slow"
    EIO = "eio"
    RESET = "reset"
    CLOSE = "close"
    HALF_CLOSE = "half-close"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    ZERO_TAIL = "zero-tail"
    BIT_FLIP = "bit-flip"

    DISK_EIO = "disk-eio"
    DISK_ENOSPC = "disk-enospc"
    DISK_TORN = "disk-torn"
    DISK_SHORT = "disk-short"

    HOOK_RAISES = "hook-raises"
    HOOK_REFUSES = "hook-refuses"
    NO_MEMORY = "no-memory"
    NEVER_CONVERGES = "never-converges"

    KILL = "kill"
    CANCEL = "cancel"


_IN_STREAM: Final = (PlaceKind.BYTE, PlaceKind.SECTION, PlaceKind.FIELD)
_READING: Final = (*_IN_STREAM, PlaceKind.READ)
_BOTH: Final = (*_READING, PlaceKind.WRITE)


@dataclass(frozen=True, slots=True)
class KindRow:
    """What is known of a kind.

    Attributes:
        layer: what it is done to.
        places: how its place may be counted.
        expectation: what must follow unless the fault says otherwise.
        words: what happens, for people; ``{amount}`` is the amount.
        unit: of the amount; "" for a kind that has none.
        amount_min, amount_max: bounds of the amount.
        amount_usual: where nobody says one.
    """

    layer: Layer
    places: tuple[PlaceKind, ...]
    expectation: Expectation
    words: str
    unit: str = ""
    amount_min: int = 0
    amount_max: int = 0
    amount_usual: int = 0


def _transport(
    places: tuple[PlaceKind, ...], expectation: Expectation, words: str, unit: str = "",
    least: int = 0, most: int = 0, usual: int = 0,
) -> KindRow:  # fmt: skip
    return KindRow(Layer.TRANSPORT, places, expectation, words, unit, least, most, usual)


_HARMLESS, _REFUSED, _ANY = Expectation
_DISK: Final = (PlaceKind.DISK,)
_CALL: Final = (PlaceKind.CALL,)
_STEP: Final = (PlaceKind.STEP,)

STALL_MAX_MS: Final = 3_600_000
"""Longest silence of a peer: an hour of virtual time costs nothing, and no deadline is longer."""
PIECE_MAX: Final = 1 << 16
"""Largest piece that is repeated or swapped, in bytes: two of QEMU's buffers."""

KINDS: Final[Mapping[FaultKind, KindRow]] = MappingProxyType(
    {
        FaultKind.SHORT_READ: _transport(
            _READING, _HARMLESS, "a read gives {amount} bytes", "bytes", 1, PIECE_MAX, 1
        ),
        FaultKind.STALL: _transport(
            _READING, _HARMLESS, "nothing comes for {amount} ms", "ms", 1, STALL_MAX_MS, 100
        ),
        FaultKind.EAGAIN: _transport(
            _READING, _HARMLESS, "woken {amount} times and nothing is there", "times", 1, 64, 1
        ),
        FaultKind.SLOW: _transport(
            _IN_STREAM, _HARMLESS, "only {amount} bytes a second from there on", "bytes/s", 1,
            1 << 30, 1 << 20,
        ),
        FaultKind.EIO: _transport(_BOTH, _REFUSED, "input/output error"),
        FaultKind.RESET: _transport(_BOTH, _REFUSED, "connection reset"),
        FaultKind.CLOSE: _transport(_READING, _REFUSED, "the peer closes the connection"),
        FaultKind.HALF_CLOSE: _transport(_READING, _REFUSED, "the peer stops sending"),
        FaultKind.DUPLICATE: _transport(
            _IN_STREAM, _ANY, "{amount} bytes come twice", "bytes", 1, PIECE_MAX, 64
        ),
        FaultKind.REORDER: _transport(
            _IN_STREAM, _ANY, "{amount} bytes come after the next {amount}", "bytes", 1,
            PIECE_MAX, 64,
        ),
        FaultKind.ZERO_TAIL: _transport(_IN_STREAM, _ANY, "nothing but zeros from there on"),
        FaultKind.BIT_FLIP: _transport(
            _IN_STREAM, _ANY, "bit {amount} of the byte is flipped", "bit", 0, 7, 0
        ),
        FaultKind.DISK_EIO: KindRow(Layer.STORAGE, _DISK, _REFUSED, "input/output error"),
        FaultKind.DISK_ENOSPC: KindRow(Layer.STORAGE, _DISK, _REFUSED, "no space left"),
        FaultKind.DISK_TORN: KindRow(
            Layer.STORAGE, _DISK, _REFUSED, "only the first {amount} bytes are written, then an "
            "error", "bytes", 0, PIECE_MAX, 1,
        ),
        FaultKind.DISK_SHORT: KindRow(
            Layer.STORAGE, _DISK, _HARMLESS, "only {amount} bytes are read", "bytes", 1,
            PIECE_MAX, 1,
        ),
        FaultKind.HOOK_RAISES: KindRow(Layer.DEVICE, _CALL, _REFUSED, "the hook raises"),
        FaultKind.HOOK_REFUSES: KindRow(
            Layer.DEVICE, _CALL, _REFUSED, "the hook returns -{amount}", "errno", 1, 133, 22
        ),
        FaultKind.NO_MEMORY: KindRow(Layer.DEVICE, _CALL, _REFUSED, "memory is refused"),
        FaultKind.NEVER_CONVERGES: KindRow(
            Layer.DEVICE, _CALL, _REFUSED, "the live handler never says that it is done"
        ),
        FaultKind.KILL: KindRow(Layer.PROCESS, _STEP, _ANY, "the process is killed"),
        FaultKind.CANCEL: KindRow(Layer.PROCESS, _STEP, _REFUSED, "the operation is cancelled"),
    }
)  # fmt: skip
"""Every kind, in the order in which people are told of them."""

CHANGES_BYTES: Final = frozenset(
    {FaultKind.DUPLICATE, FaultKind.REORDER, FaultKind.ZERO_TAIL, FaultKind.BIT_FLIP}
)
"""Kinds that deliver other bytes than were sent."""
