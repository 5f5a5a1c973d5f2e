"""What a function is given: a stream as bytes, a file or a reader, and what goes wrong with it.

All three are fed from one place, in the same manner with a plan and without: a load with
faults differs from one without by the faults alone.  A piece is taken when the loader asks for
more and has to wait, and not before: a fault has struck only a loader that came to its place.
"""

import asyncio
import io
from dataclasses import replace
from typing import Final

from loadfuzz.faults.kinds import CHANGES_BYTES, FaultKind, Layer
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan
from loadfuzz.faults.wire import NS_PER_S, Deliver, Dry, End, Fail, Injector, Wait
from loadfuzz.inputs import Delivery

WHOLE_BYTES: Final = 1 << 40
"""Asked for where everything may come at once: beyond any stream."""
_CUTS: Final = frozenset({FaultKind.CLOSE, FaultKind.HALF_CLOSE})
_END: Final = End()
_SILENCES: Final = frozenset({FaultKind.STALL, FaultKind.SLOW})


class Feed:
    """One stream on its way to a function, and what it met there.

    Args:
        stream: what the peer sends.
        delivery: the pieces in which it arrives.
        plan: what goes wrong.
        at_once: the function gets bytes, which cannot be late or fail: they can be others, or
            fewer, and the rest of the plan does not strike.

    Attributes:
        struck: the faults that have happened, in order.
        errnos: of the errors that the function was given.
    """

    def __init__(
        self,
        stream: bytes,
        delivery: Delivery,
        plan: FaultPlan = NO_FAULTS,
        *,
        at_once: bool = False,
    ) -> None:
        self._stream = stream
        self._plan = _only(plan, CHANGES_BYTES | _CUTS) if at_once and plan else plan
        self._injector = _sent(stream, self._plan) if plan else None
        self._at = 0
        self._sizes = tuple(size for size in delivery.chunks if size) or (WHOLE_BYTES,)
        self._turn = 0
        # Of two at one place the first is the one that strikes.
        self._cancels = {
            fault.place.number: fault
            for fault in reversed(plan.on(Layer.PROCESS) if plan else ())
            if fault.kind is FaultKind.CANCEL
        }
        self.struck: list[Fault] = [] if self._injector is None else self._injector.struck
        self.errnos: set[int] = set()

    @property
    def cancels(self) -> bool:
        """Whether the plan has a cancellation."""
        return bool(self._cancels)

    @property
    def cancelled(self) -> bool:
        """Whether the function's task was cancelled by plan."""
        return any(fault.kind is FaultKind.CANCEL for fault in self.struck)

    @property
    def silent(self) -> bool:
        """Whether the function was kept waiting by plan."""
        return any(fault.kind in _SILENCES for fault in self.struck)

    def cancel_at(self, suspension: int) -> bool:
        """Whether the function's task is cancelled when it waits for the n-th time, from 0."""
        fault = self._cancels.get(suspension)
        if fault is None:
            return False
        self.struck.append(fault)
        return True

    def whole(self) -> bytes:
        """All of it at once."""
        if self._injector is None:
            return self._stream
        data = _arriving(self._injector)
        if any(fault.kind in _CUTS for fault in self.struck):
            full = _arriving(_sent(self._stream, _only(self._plan, CHANGES_BYTES)))
            if len(full) == len(data):
                # It was cut where it ends anyway.
                self.struck[:] = [fault for fault in self.struck if fault.kind not in _CUTS]
        return data

    def pull(self, size: int = WHOLE_BYTES) -> Deliver | Wait | Fail | End | Dry:
        """What happens next (:meth:`loadfuzz.faults.wire.Injector.pull`)."""
        size = min(size, self._sizes[self._turn % len(self._sizes)])
        if self._injector is None:
            # An injector would do the same, in more time than many a loader takes.
            begun, self._at = self._at, self._at + size
            self._turn += 1
            return Deliver(self._stream[begun : self._at]) if begun < len(self._stream) else _END
        act = self._injector.pull(size)
        match act:
            case Deliver():
                self._turn += 1
            case Fail(errno):
                self.errnos.add(errno)
        return act


def _only(plan: FaultPlan, kinds: frozenset[FaultKind]) -> FaultPlan:
    return replace(plan, faults=tuple(fault for fault in plan.faults if fault.kind in kinds))


def _sent(stream: bytes, plan: FaultPlan) -> Injector:
    injector = Injector(plan)
    injector.push(stream)
    injector.push_end()
    return injector


def _arriving(injector: Injector) -> bytes:
    """What comes of a stream with which nothing happens but changes and cuts."""
    data = bytearray()
    while isinstance(act := injector.pull(WHOLE_BYTES), Deliver):
        data += act.data
    return bytes(data)


class FedFile(io.RawIOBase):
    """A file that has one piece at hand at a time.  To wait for one takes no time.

    Args:
        feed: gives the pieces.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def readable(self) -> bool:
        """See :meth:`io.IOBase.readable`."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """See :meth:`io.RawIOBase.readinto`.

        Raises:
            OSError: a fault says so.
        """
        __tracebackhide__ = True
        while True:
            match self._feed.pull(len(buffer)):
                case Deliver(data):
                    buffer[: len(data)] = data
                    return len(data)
                case Wait():
                    continue
                case Fail() as failure:
                    raise failure.error()
                case End() | Dry():
                    return 0


class FedReader(asyncio.StreamReader):
    """A reader that gets its next piece when somebody waits for more, a turn of the loop later.

    Args:
        feed: gives the pieces.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed: Feed | None = feed
        self._asking = 0
        self._feeding = False

    def stop(self) -> None:
        """The load is over: nothing strikes any more."""
        self._feed = None

    async def _wait_for_data(self, func_name: str) -> None:
        # All that waits in a StreamReader of CPython waits here.  To count those who read by
        # overriding what is public takes four times as long as to read a field of four bytes.
        __tracebackhide__ = True
        self._asking += 1
        self._feed_soon()
        try:
            await super()._wait_for_data(func_name)  # type: ignore[misc]
        finally:
            self._asking -= 1

    def _feed_soon(self, seconds: float = 0.0) -> None:
        if not self._feeding:
            self._feeding = True
            loop = asyncio.get_running_loop()
            if seconds:
                loop.call_later(seconds, self._feed_one)
            else:
                loop.call_soon(self._feed_one)

    def _feed_one(self) -> None:
        # What the piece before has woken has run by now: who still asks, waits.
        self._feeding = False
        if not self._asking or self._feed is None:
            return
        match self._feed.pull():
            case Deliver(data):
                self.feed_data(data)
                self._feed_soon()
            case Wait(ns):
                self._feed_soon(ns / NS_PER_S)
            case Fail() as failure:
                self.set_exception(failure.error())
            case End() | Dry():
                self.feed_eof()
