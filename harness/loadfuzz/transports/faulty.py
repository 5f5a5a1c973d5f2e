"""A transport that fails by plan: one wrapper, whatever is inside.

Theory of operation.  What the inner transport reads is pushed into an
:class:`~loadfuzz.faults.wire.Injector`, and its acts are carried out: bytes are handed over,
silences slept through by the clock that was given, errors raised.  Nothing is read ahead of
what somebody asks for, so a fault strikes only a reader that comes to its place.

A fault that ends the connection ends it for the peer, too: behind a reset, or a close that the
peer knows nothing of, the inner transport is aborted.  An input/output error, the end of one
direction and a deadline that has passed are seen by this end alone.
"""

from errno import ECONNRESET, EIO, EPIPE
from os import strerror
from typing import Final

from loadfuzz.clock import AsyncClock
from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.wire import NS_PER_S, Deliver, Dry, End, Fail, Injector, Wait
from loadfuzz.transports.transport import Transport, Turn, check_size, closed_error
from savevm.qemufile.sources import Buffer

_AT_WRITE: Final = {FaultKind.RESET: ECONNRESET, FaultKind.EIO: EIO}


class FaultyTransport:
    """See the module, and :class:`loadfuzz.transports.transport.Transport`.

    Faults with their place at a byte or a read strike what is read at this end; those at the
    n-th write strike that call of :meth:`write`, which then sends nothing, and all behind it.

    Args:
        inner: the connection; it is closed and aborted with this one.
        plan: what goes wrong, its places in the stream resolved to bytes.
        clock: by which silences last.
    """

    __slots__ = (
        "_at_write", "_clock", "_closed", "_ended", "_gone", "_injector", "_inner", "_reading",
        "_until_s", "_write_failure", "_writes", "_writing",
    )  # fmt: skip

    def __init__(self, inner: Transport, plan: FaultPlan, clock: AsyncClock) -> None:
        self._inner = inner
        self._clock = clock
        self._injector = Injector(plan)
        self._at_write = [
            fault for fault in plan.on(Layer.TRANSPORT) if fault.place.kind is PlaceKind.WRITE
        ]
        self._writes = 0
        self._until_s = 0.0
        self._ended = self._closed = False
        # Errnos, 0 for none: of the connection for both directions, and of writing alone.
        self._gone = self._write_failure = 0
        self._reading = Turn("read")
        self._writing = Turn("write")

    @property
    def struck(self) -> tuple[Fault, ...]:
        """The faults that have happened so far, in order."""
        return tuple(self._injector.struck)

    async def read(self, size: int) -> bytes:
        """See :meth:`loadfuzz.transports.transport.Transport.read`.

        A read that is cancelled in a silence leaves the rest of it to the next one.

        Raises:
            OSError: as there, or because a fault says so; then now and ever after.
        """
        check_size(size)
        with self._reading.taken():
            while True:
                await self._sleep_out()
                if self._closed:
                    raise closed_error()
                if self._gone == ECONNRESET:
                    raise _error(ECONNRESET)
                match self._injector.pull(size):
                    case Deliver(data):
                        return data
                    case Wait(ns):
                        await self._begin_silence(ns)
                    case Fail() as failure:
                        if failure.errno == ECONNRESET:
                            self._cut(ECONNRESET)
                        raise failure.error()
                    case End(half):
                        if not (self._ended or half):
                            self._cut(EPIPE)
                        return b""
                    case Dry():
                        await self._read_inner(size)

    async def _read_inner(self, size: int) -> None:
        try:
            data = await self._inner.read(size)
        except OSError:
            self._check_gone()
            raise
        if data:
            self._injector.push(data)
        else:
            self._ended = True
            self._injector.push_end()

    async def _begin_silence(self, ns: int) -> None:
        self._until_s = self._clock.now_s() + ns / NS_PER_S
        if not ns:
            await self._clock.sleep(0)

    async def _sleep_out(self) -> None:
        """The rest of a silence."""
        if self._until_s:
            left_s = self._until_s - self._clock.now_s()
            if left_s > 0:
                await self._clock.sleep(left_s)
            self._until_s = 0.0

    async def write(self, data: Buffer) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write`.

        Raises:
            OSError: as there, or because a fault says so; then now and ever after.
        """
        with self._writing.taken():
            number, self._writes = self._writes, self._writes + 1
            if not self._closed:
                self._strike(number)
            try:
                await self._inner.write(data)
            except OSError:
                self._check_gone()
                raise

    def _strike(self, number: int) -> None:
        """What happens at that write."""
        self._check_gone()
        for fault in self._at_write:
            if fault.place.number == number and not self._write_failure:
                self._injector.struck.append(fault)
                self._write_failure = _AT_WRITE[fault.kind]
                if fault.kind is FaultKind.RESET:
                    self._cut(ECONNRESET)
        if self._write_failure:
            raise _error(self._write_failure)

    def _cut(self, errno: int) -> None:
        """The connection is gone, in both directions and for both ends."""
        if not self._gone:
            self._gone = errno
            self._inner.abort()

    def _check_gone(self) -> None:
        """Say that the connection is gone, rather than that we have closed it."""
        if self._gone and not self._closed:
            raise _error(self._gone)

    def write_eof(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.write_eof`."""
        self._inner.write_eof()

    def close(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.close`."""
        self._closed = True
        self._inner.close()

    def abort(self) -> None:
        """See :meth:`loadfuzz.transports.transport.Transport.abort`."""
        self._closed = True
        self._inner.abort()


def _error(errno: int) -> OSError:
    return OSError(errno, strerror(errno))
