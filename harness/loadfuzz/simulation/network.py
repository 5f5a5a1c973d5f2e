"""One direction of a connection between two simulated processes: it fills, runs dry and fails.

The writer is a QEMUFile's sink, the reader a QEMUFile's source; both wait by letting other
tasks run.  Between them an :class:`~loadfuzz.faults.wire.Injector` carries out the transport
faults of a plan, as it does on every other transport; faults at the n-th write are carried
out here, since only a writer meets them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import ECONNRESET, EIO, EPIPE
from os import strerror
from typing import Final

from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.wire import NS_PER_S, Deliver, Dry, End, Fail, Injector, Wait
from loadfuzz.simulation.scheduler import Gate, Scheduler
from savevm.qemufile.sources import Buffer

Hear = Callable[[str, str, int], None]
"""Told of what happens: who, what, and a number that goes with it."""

_AT_WRITE: Final = {FaultKind.RESET: ECONNRESET, FaultKind.EIO: EIO}
_CUT: Final = frozenset({FaultKind.RESET, FaultKind.CLOSE})
"""Faults after which the connection is gone for the writer, too."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection that works.

    Attributes:
        capacity: bytes that are under way before the writer has to wait.
        piece: bytes that one read gives at most.
        bytes_per_s: that get through; 0 for no limit.
    """

    capacity: int
    piece: int
    bytes_per_s: int


class Pipe:
    """See the module.

    Args:
        scheduler: of both ends' tasks.
        link: how good the connection is.
        plan: what goes wrong with it.
        hear: told of reads, writes and what goes wrong.

    Attributes:
        sink, source: the two ends.
        sent: bytes that the writer got rid of.
        struck: the faults that have happened, in order.
    """

    __slots__ = (
        "_answer", "_answered", "_arrived", "_at_write", "_buffered", "_ended", "_forsaken",
        "_gone", "_hear", "_injector", "_link", "_room", "_scheduler", "_starved", "_void",
        "_writes", "sent", "sink", "source",
    )  # fmt: skip

    def __init__(self, scheduler: Scheduler, link: Link, plan: FaultPlan, hear: Hear) -> None:
        self._scheduler = scheduler
        self._link = link
        self._hear = hear
        self._injector = Injector(plan)
        self._at_write = [
            fault for fault in plan.on(Layer.TRANSPORT) if fault.place.kind is PlaceKind.WRITE
        ]
        self._room = Gate(scheduler)
        self._arrived = Gate(scheduler)
        self._buffered = 0
        self._writes = 0
        self._starved = False
        self._ended = False
        self._forsaken = False
        self._void = False
        self._answer: bool | None = None
        self._answered = Gate(scheduler)
        # Why nothing can be written any more: an errno.
        self._gone = 0
        self.sent = 0
        self.sink = PipeSink(self)
        self.source = PipeSource(self)

    @property
    def struck(self) -> list[Fault]:
        """The faults that have happened, in order."""
        return self._injector.struck

    # -- the writer ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send all of ``data``; waits while too much is under way.

        Raises:
            OSError: the connection is gone, or a fault says so.
        """
        self._hear("wire", "write", len(data))
        self._strike_write()
        at = 0
        while at < len(data):
            if self._gone:
                raise OSError(self._gone, strerror(self._gone))
            room = self._link.capacity - self._buffered
            if room <= 0 and not (self._starved or self._void):
                self._room.wait("for room in the pipe")
                continue
            # What a fault holds back is under way, but in nobody's buffer.
            piece = data[at : at + max(room, 1 if room > 0 else self._link.piece)]
            at += len(piece)
            if not self._void:
                self.sent += len(piece)
                self._injector.push(piece)
                self._buffered += len(piece)
                self._starved = False
                self._arrived.open()

    def _strike_write(self) -> None:
        number, self._writes = self._writes, self._writes + 1
        if self._gone:
            raise OSError(self._gone, strerror(self._gone))
        for fault in self._at_write:
            if fault.place.number == number:
                self.struck.append(fault)
                self._hear("wire", f"{fault.kind} at write", number)
                if fault.kind is FaultKind.RESET:
                    self._lose(ECONNRESET)
                code = _AT_WRITE[fault.kind]
                raise OSError(code, strerror(code))

    def end(self) -> None:
        """The writer has closed: the reader gets what was sent, and then the end."""
        if not self._ended:
            self._ended = True
            self._hear("wire", "closed by the writer", 0)
            self._injector.push_end()
            self._arrived.open()

    # -- the reader --------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """What comes next, up to ``size`` bytes; waits until there is something.

        Raises:
            OSError: a fault says so.
        """
        injector, scheduler, link = self._injector, self._scheduler, self._link
        while True:
            act = injector.pull(min(size, link.piece))
            match act:
                case Deliver(data):
                    self._buffered = max(self._buffered - len(data), 0)
                    self._room.open()
                    if link.bytes_per_s:
                        scheduler.sleep(len(data) * NS_PER_S // link.bytes_per_s)
                    self._hear("wire", "read", len(data))
                    return data
                case Wait(ns):
                    self._hear("wire", "silence", ns)
                    scheduler.sleep(ns)
                case Fail(errno):
                    self._hear("wire", "read failed", errno)
                    self._cut_off(errno)
                    raise act.error()
                case End():
                    self._hear("wire", "end", 0)
                    if not self._ended:
                        self._cut_off(EPIPE)
                    return b""
                case Dry():
                    self._starved = True
                    self._room.open()
                    self._arrived.wait("for bytes")

    def _cut_off(self, errno: int) -> None:
        """The reader has met a fault; does the writer meet it, too?"""
        last = self.struck[-1].kind if self.struck else None
        if last in _CUT:
            self._lose(errno)
        elif last is FaultKind.HALF_CLOSE:
            # The reader thinks that there is no more.  What is sent goes nowhere.
            self._void = True
            self._room.open()

    def forsake(self) -> None:
        """The reader has closed: what is written now fails."""
        self._forsaken = True
        self._hear("wire", "closed by the reader", 0)
        self._lose(EPIPE)

    # -- the other way -----------------------------------------------------------------------------

    def answer(self, *, good: bool) -> None:
        """The reader says what became of what it read (QEMU's ``RP_SHUT``)."""
        if not self._gone:
            self._answer = good
            self._answered.open()

    def await_answer(self) -> None:
        """The writer waits for that.

        Raises:
            OSError: it was bad, or never came.
        """
        while self._answer is None and not self._gone:
            self._answered.wait("for the destination's answer")
        if not self._answer:
            code = self._gone or EIO
            raise OSError(code, strerror(code))

    @property
    def open_ends(self) -> tuple[str, ...]:
        """Ends that nobody has closed: ``writer``, ``reader``."""
        return ("writer",) * (not self._ended) + ("reader",) * (not self._forsaken)

    # -- both --------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """As ``shutdown(fd, SHUT_RDWR)`` at the writer's end: nothing can be sent any more,
        who waits to send is woken, and the reader gets the end behind what was sent."""
        self._lose(EPIPE)
        self.end()

    def _lose(self, errno: int) -> None:
        self._gone = self._gone or errno
        self._room.open()
        self._answered.open()


class PipeSink:
    """The writer's end (:class:`savevm.qemufile.Sink`)."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        """See :meth:`Pipe.write`."""
        del position
        self._pipe.write(b"".join(pieces))

    def close(self) -> None:
        """See :meth:`Pipe.end`."""
        self._pipe.end()


class PipeSource:
    """The reader's end (:class:`savevm.qemufile.Source`)."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def read(self, size: int) -> Buffer:
        """See :meth:`Pipe.read`."""
        return self._pipe.read(size)

    def close(self) -> None:
        """See :meth:`Pipe.forsake`."""
        self._pipe.forsake()
