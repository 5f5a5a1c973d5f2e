"""A proxy between a source and a destination that carries out a plan on what passes.

The two talk over Unix sockets with the proxy between them; what the source sends goes through
an injector (:mod:`.late`), whose acts become what a socket can do:

==========  ================================  ============================================
act         the destination                   the source
==========  ================================  ============================================
deliver     gets the bytes                    goes on
wait        gets nothing for that long        blocks as soon as its socket is full
reset, EIO  ``ECONNRESET``                    ``EPIPE``
close       end of file                       ``EPIPE``
half close  end of file                       goes on, into nothing
==========  ================================  ============================================

A Unix socket has no RST.  What it has: whoever closes one with something unread in it leaves
``ECONNRESET`` to a peer that reads (``unix_release_sock`` in the kernel's net/unix/af_unix.c),
and ``EPIPE`` to one that writes.  So something is put into our end of the destination's
beforehand (:func:`pair`), and taken out where closing is to be none.  No socket gives ``EIO``:
that is a reset.  QEMU makes ``-EIO`` of all of them (``qemu_fill_buffer`` in
migration/qemu-file.c).

Both sockets take little (:data:`BUFFER_SIZE`), so that the source is never far ahead of the
destination, as with a real machine's memory: a whole small one would fit into a socket, and
its source be done before anything could go wrong.

Time is real here, so silences are scaled by :data:`TIME_SCALE` and bounded; deadlines of the
plan are kept in its own time, by the injector.

Steps, the places of what is done to the processes, are counted in pairs: before the n-th
piece of :data:`STEP_SIZE` bytes is passed on, step 2n is the source's and step 2n+1 the
destination's.  So ``kill@step:6`` kills the source after three pieces, ``kill@step:7`` the
destination, and a cancel may be at either.  What lies beyond the stream is done behind its
last byte.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.wire import NS_PER_S, Deliver, Dry, End, Fail, Wait
from loadfuzz.qemu.late import LateInjector
from loadfuzz.qemu.section_watch import SectionWatch

STEP_SIZE: Final = 4096
"""Bytes of a step, and at most of a piece that is passed on: a page of the guest."""
BUFFER_SIZE: Final = 4096
"""Bytes that a socket is asked to hold; Linux makes twice as many of it."""
TIME_SCALE: Final = 0.05
"""Real seconds of a second of silence: a migration takes some milliseconds here, and is to
take no longer than a QEMU takes to come up."""
WAIT_MAX_S: Final = 0.25
"""Longest single silence, in real seconds: that of a plan's whole deadline."""
WAITED_MAX_S: Final = 1.0
"""Real seconds of all silences of a migration; slowness makes hundreds of short ones."""
SILENT_MAX_S: Final = 20.0
"""How long a source may send nothing, or a destination take nothing, before the connection is
closed: neither waits for anything but us."""
PASSING_MAX_S: Final = 60.0
"""Real seconds of a whole migration, counted between pieces: a guest that changes its memory
faster than that passes would go on for ever.  One that comes to an end takes milliseconds to a
second here, and all silences another (:data:`WAITED_MAX_S`)."""
SENT_MAX: Final = 1 << 30
"""Bytes of a whole migration: many times the memory of any machine that is known until its end
(``RECORD_MAX`` in :mod:`.section_watch`), so one that sends more does not converge."""
_MARK: Final = b"\0"
"""What is put into our end so that it is never empty."""


class Ended(StrEnum):
    """How the connection came to its end."""

    WHOLE = "the source closed it"
    BROKEN = "a fault did"
    REFUSED = "the destination closed it"
    SILENT = "neither went on"
    ENDLESS = "the source always had more to send"


@dataclass(frozen=True, slots=True)
class Passed:
    """What passed through a proxy.

    Attributes:
        ended: how it ended.
        struck: faults that happened: those of the connection in order, then those of the
            processes that took effect at once.
        sent: bytes of the source.
        delivered: bytes that the destination got.
        sections: offsets of the sections in what was sent.
        state_end: offset behind the end of the machine's state in what was sent, 0 if that was
            not reached.
    """

    ended: Ended
    struck: tuple[Fault, ...]
    sent: int
    delivered: int
    sections: tuple[int, ...]
    state_end: int

    @property
    def whole_state(self) -> bool:
        """Whether the destination got all that it needs."""
        return bool(self.state_end) and self.delivered >= self.state_end


AtStep = Callable[[Fault], Awaitable[bool]]
"""Carries out a fault of a process, while nothing passes; whether it has taken effect."""


def pair(*, marked: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: ours, and one for a QEMU.

    Args:
        marked: for a destination, which sends nothing: put something into our end, see the
            head of this module.

    Raises:
        OSError: there is no room for more.
    """
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
    if marked:
        theirs.send(_MARK)
    ours.setblocking(False)
    return ours, theirs


class Proxy:
    """One connection; used once.

    Args:
        source: our end of the socket to which the source writes.
        destination: our end of the one from which the destination reads, made with
            ``marked``.
        plan: what goes wrong.
        at_step: what carries out faults of processes.

    Both sockets are closed when :meth:`run` is over, however that comes.

    Attributes:
        watch: what the source has sent.
        delivered: bytes that the destination's socket has taken.
    """

    def __init__(
        self,
        source: socket.socket,
        destination: socket.socket,
        plan: FaultPlan,
        at_step: AtStep,
    ) -> None:
        self.watch = SectionWatch()
        self.delivered = 0
        self._source = source
        self._destination = destination
        self._at_step = at_step
        self._injector = LateInjector(plan, self.watch.recorded)
        steps = [fault for fault in plan.on(Layer.PROCESS) if fault.place.kind is PlaceKind.STEP]
        self._steps = sorted(steps, key=lambda fault: -fault.place.number)
        self._struck: list[Fault] = []
        self._waited_s = 0.0
        self._until_s = 0.0
        self._placed = 0
        self._held = bytearray()

    async def run(self) -> Passed:
        """Pass on what comes until there is no more.

        Cancellation closes the connection.
        """
        self._until_s = asyncio.get_running_loop().time() + PASSING_MAX_S
        with self._source, self._destination:
            ended = await self._pump()
        return Passed(
            ended,
            (*self._injector.struck, *self._struck),
            self.watch.size,
            self.delivered,
            tuple(self.watch.starts),
            self.watch.end,
        )

    async def _pump(self) -> Ended:
        while not self._is_too_much():  # each turn passes on, takes, waits or ends
            room = await self._do_steps()
            match self._injector.pull(room):
                case Deliver(data):
                    if (failure := await self._deliver(data)) is not None:
                        return failure
                case Wait(ns):
                    await self._wait(ns / NS_PER_S)
                case Fail():
                    return Ended.BROKEN
                case End(half=True):
                    return await self._half_close()
                case End():
                    return await self._close()
                case Dry():
                    if not await self._take():
                        return Ended.SILENT
        return Ended.ENDLESS

    def _is_too_much(self) -> bool:
        """Whether it has gone on for so long that no end is to be expected."""
        return self.watch.size >= SENT_MAX or asyncio.get_running_loop().time() >= self._until_s

    async def _take(self) -> bool:
        """What the source sends next; False when it sends nothing for too long."""
        data = await self._receive()
        if data is None:
            return False
        sure = self.watch.feed(data) if data else self.watch.finish()
        for offset in self.watch.starts[self._placed :]:
            self._injector.place(self._placed, offset)
            self._placed += 1
        # Not from the watch, which does not keep everything.
        self._held += data
        doubtful = self.watch.size - sure
        self._injector.push(bytes(self._held[: len(self._held) - doubtful]))
        del self._held[: len(self._held) - doubtful]
        if not data:
            self._injector.push_end()
        return True

    async def _receive(self) -> bytes | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENT_MAX_S):
                return await loop.sock_recv(self._source, STEP_SIZE)
        except TimeoutError:
            return None
        except OSError:
            return b""  # it died with something unread

    async def _deliver(self, data: bytes) -> Ended | None:
        """Pass bytes on; how it ended if they are not taken."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENT_MAX_S):
                await loop.sock_sendall(self._destination, data)
        except TimeoutError:
            return Ended.SILENT
        except OSError:
            return Ended.REFUSED
        self.delivered += len(data)
        return None

    async def _wait(self, seconds: float) -> None:
        real_s = min(seconds * TIME_SCALE, WAIT_MAX_S, WAITED_MAX_S - self._waited_s)
        self._waited_s += max(real_s, 0.0)
        await asyncio.sleep(max(real_s, 0.0))

    async def _close(self) -> Ended:
        """Nothing comes any more: the source has closed, or a fault says that it has."""
        ended = Ended.WHOLE
        if any(fault.kind is FaultKind.CLOSE for fault in self._injector.struck):
            ended = Ended.BROKEN
        else:
            await self._do_rest()
        self._clear()
        return ended

    async def _half_close(self) -> Ended:
        """The destination gets no more; what the source sends goes nowhere."""
        self._clear()
        with contextlib.suppress(OSError):
            self._destination.shutdown(socket.SHUT_WR)
        while data := await self._receive():
            self.watch.feed(data)
            if self._is_too_much():
                return Ended.ENDLESS
        self.watch.finish()
        if data is None:
            return Ended.SILENT
        await self._do_rest()
        return Ended.BROKEN

    def _clear(self) -> None:
        """Have closing the destination's socket be no reset."""
        with contextlib.suppress(OSError):
            self._destination.recv(len(_MARK))

    # -- processes -----------------------------------------------------------------------------

    async def _do_steps(self) -> int:
        """Do what is due before the next byte; how many bytes may pass until more is."""
        position = self._injector.position
        while self._steps and _offset(self._steps[-1]) <= position:
            await self._do(self._steps.pop())
        return STEP_SIZE - position % STEP_SIZE

    async def _do_rest(self) -> None:
        """Do what lies beyond the stream."""
        while self._steps:
            await self._do(self._steps.pop())

    async def _do(self, fault: Fault) -> None:
        if await self._at_step(fault):
            self._struck.append(fault)


def _offset(fault: Fault) -> int:
    """Bytes that pass before a fault of a process."""
    return fault.place.number // 2 * STEP_SIZE


def strikes_source(fault: Fault) -> bool:
    """Whether a kill at that step is the source's, see the head of this module."""
    return fault.place.number % 2 == 0
