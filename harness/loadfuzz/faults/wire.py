"""The injector: bytes under way, and what a plan does to them.  It does no input or output.

Theory of operation.  What the peer has sent is pushed in; whoever delivers pulls, and
is told one :data:`Act` at a time: bytes to hand over, a time to wait, an error to raise,
the end, or that there is nothing yet.  A plain source, an asyncio transport, a proxy
between two processes and the simulated network all carry out the same acts, so a plan
means the same everywhere, and the same plan on the same bytes is the same acts.

What changes the bytes (duplicates, swaps, flips, zeros) is done first, at offsets of what
was sent; what happens between them (silence, errors, the end) at offsets of what arrives,
when all bytes before the place were handed over.  With one fault that is the same.  Behind
a reset, an error or a close nothing comes any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from errno import ECONNRESET, EIO, ETIMEDOUT
from os import strerror
from typing import Final, TypeAlias

from loadfuzz.faults.kinds import CHANGES_BYTES, Expectation, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, at_byte
from savevm.qemufile.sources import Buffer

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
SLICES_PER_S: Final = 20
"""Pieces per second into which a slow connection cuts what it delivers."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand these bytes over; at least one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing comes for ``ns`` nanoseconds of virtual time (0: woken for nothing)."""

    ns: int


@dataclass(frozen=True, slots=True)
class Fail:
    """The operation fails with ``errno``, now and ever after."""

    errno: int

    def error(self) -> OSError:
        """As an exception."""
        return OSError(self.errno, strerror(self.errno))


@dataclass(frozen=True, slots=True)
class End:
    """There is no more.

    Attributes:
        half: only the peer's sending has ended; what is sent to it still arrives.
    """

    half: bool = False


@dataclass(frozen=True, slots=True)
class Dry:
    """Everything that was pushed is handed over, and the peer has not closed."""


Act: TypeAlias = Deliver | Wait | Fail | End | Dry

_DRY: Final = Dry()
_END: Final = End()
_LAST: Final[Mapping[FaultKind, Fail | End]] = {
    FaultKind.EIO: Fail(EIO),
    FaultKind.RESET: Fail(ECONNRESET),
    FaultKind.CLOSE: _END,
    FaultKind.HALF_CLOSE: End(half=True),
}


class _Content:
    """What changes the bytes themselves."""

    __slots__ = ("_at", "_held", "_pending", "_struck", "_zeros")

    def __init__(self, faults: list[Fault], struck: list[Fault]) -> None:
        self._pending = faults
        self._struck = struck
        self._held = bytearray()
        self._at = 0
        self._zeros: Fault | None = None

    def change(self, data: Buffer, *, ended: bool) -> bytes:
        """What arrives of ``data``, and of what was held back for want of more."""
        held = self._held
        if not self._pending and not held and self._zeros is None:
            self._at += len(data)
            return bytes(data)
        held += data
        out = bytearray()
        while self._pending:
            fault = self._pending[-1]
            if fault.place.number < self._at:
                # Another fault has eaten the place.
                self._pending.pop()
                continue
            out += self._take(min(fault.place.number - self._at, len(held)))
            if self._at < fault.place.number or len(held) < (1 if ended else _needed(fault)):
                break
            self._pending.pop()
            out += self._strike(fault)
        if not self._pending or ended:
            out += self._take(len(held))
        return bytes(out)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        self._at += len(taken)
        zeros = self._zeros
        if zeros is None:
            return taken
        nothing = bytes(len(taken))
        if taken != nothing and zeros not in self._struck:
            self._struck.append(zeros)
        return nothing

    def _strike(self, fault: Fault) -> bytes:
        """Carry it out; it has struck if what arrives is not what was sent."""
        amount = fault.amount
        match fault.kind:
            case FaultKind.DUPLICATE:
                sent = self._take(amount)
                arrives = sent + sent
            case FaultKind.REORDER:
                first = self._take(amount)
                second = self._take(amount)
                sent, arrives = first + second, second + first
            case FaultKind.BIT_FLIP:
                sent = self._take(1)
                arrives = bytes((sent[0] ^ 1 << amount,))
            case _:
                self._zeros = self._zeros or fault
                return b""
        if sent != arrives:
            self._struck.append(fault)
        return arrives


def _needed(fault: Fault) -> int:
    """Bytes that must be there before it can strike."""
    match fault.kind:
        case FaultKind.DUPLICATE:
            return fault.amount
        case FaultKind.REORDER:
            return 2 * fault.amount
        case _:
            return 1


class Injector:
    """Applies the transport faults of a plan to one direction of a connection.

    Args:
        plan: its other layers are passed over.  Places in the stream's own terms
            (section, field) must have been resolved to bytes before
            (:func:`loadfuzz.faults.resolving.resolve`); those left strike nowhere.

    Attributes:
        struck: the faults that have happened, in order, each where it did: one whose place
            was a number of reads has the byte before which it struck.  A deadline that
            passes is a silence that must be refused.
        elapsed_ns: virtual time that its reader was told to wait so far.
    """

    __slots__ = (
        "_at", "_by_read", "_content", "_data", "_deadline_ns", "_ended", "_last", "_paid",
        "_pending", "_rate", "_reads", "_wakes", "elapsed_ns", "struck",
    )  # fmt: skip

    def __init__(self, plan: FaultPlan) -> None:
        faults = plan.on(Layer.TRANSPORT)
        self.struck: list[Fault] = []
        self.elapsed_ns = 0
        by_byte = sorted(
            (fault for fault in faults if fault.place.kind is PlaceKind.BYTE),
            key=lambda fault: -fault.place.number,
        )
        self._content = _Content([f for f in by_byte if f.kind in CHANGES_BYTES], self.struck)
        self._pending = [fault for fault in by_byte if fault.kind not in CHANGES_BYTES]
        self._by_read = [fault for fault in faults if fault.place.kind is PlaceKind.READ]
        self._data = bytearray()
        self._at = 0
        self._reads = 0
        self._rate = 0
        self._wakes = 0
        self._paid = 0
        self._ended = False
        self._last: Fail | End | None = None
        self._deadline_ns = plan.deadline_ms * NS_PER_MS

    @property
    def position(self) -> int:
        """Offset of the next byte that arrives."""
        return self._at

    def push(self, data: Buffer) -> None:
        """The peer has sent ``data``."""
        self._data += self._content.change(data, ended=False)

    def push_end(self) -> None:
        """The peer has closed."""
        if not self._ended:
            self._ended = True
            self._data += self._content.change(b"", ended=True)

    def pull(self, size: int) -> Act:
        """What happens next to a reader that asks for up to ``size`` (at least 1) bytes.

        After a :class:`Wait` the reader has waited, and pulls again.
        """
        if self._last is not None:
            return self._last
        if self._wakes:
            self._wakes -= 1
            return Wait(0)
        limit = size
        for fault in self._due():
            self.struck.append(replace(fault, place=at_byte(self._at)))
            match fault.kind:
                case FaultKind.SHORT_READ:
                    limit = min(limit, fault.amount)
                case FaultKind.STALL:
                    return self._wait(fault.amount * NS_PER_MS)
                case FaultKind.EAGAIN:
                    self._wakes = fault.amount - 1
                    return Wait(0)
                case FaultKind.SLOW:
                    self._rate = fault.amount
                case _:
                    self._last = last = _LAST[fault.kind]
                    return last
        return self._hand_over(limit)

    def _due(self) -> list[Fault]:
        """Faults that strike before the next byte, one that makes the reader wait last."""
        due: list[Fault] = []
        while self._pending and self._pending[-1].place.number <= self._at:
            if self._pending[-1].kind is FaultKind.SHORT_READ and not self._data:
                return due  # there is nothing to give too little of
            due.append(self._pending.pop())
            if due[-1].kind in (FaultKind.STALL, FaultKind.EAGAIN):
                return due
        for fault in self._by_read:
            if fault.kind is FaultKind.SHORT_READ and not self._data:
                continue
            if fault.place.number <= self._reads:
                due.append(fault)
                self._by_read.remove(fault)
                break
        return due

    def _wait(self, ns: int) -> Wait | Fail:
        self.elapsed_ns += ns
        if self.elapsed_ns <= self._deadline_ns:
            return Wait(ns)
        self._last = Fail(ETIMEDOUT)
        waited_ms = self.elapsed_ns // NS_PER_MS
        place = at_byte(self._at)
        self.struck.append(Fault(FaultKind.STALL, place, waited_ms, Expectation.MUST_REJECT))
        return self._last

    def _hand_over(self, limit: int) -> Act:
        if not self._data:
            return _END if self._ended else _DRY
        if self._pending:
            limit = min(limit, max(self._pending[-1].place.number - self._at, 1))
        if self._rate:
            limit = min(limit, max(self._rate // SLICES_PER_S, 1))
            piece = min(limit, len(self._data))
            if not self._paid:
                self._paid = piece
                return self._wait(piece * NS_PER_S // self._rate)
            limit, self._paid = min(limit, self._paid), 0
        data = bytes(self._data[:limit])
        del self._data[: len(data)]
        self._at += len(data)
        self._reads += 1
        return Deliver(data)
