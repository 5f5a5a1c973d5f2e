"""Two kinds of QEMU: sources, which run their guest, and destinations, which wait for one.

A source is used again and again, since a migration that fails leaves it running; a
destination loads once in its life.  So destinations are started ahead, as the processes of
:mod:`.incoming_pool` are, and a source or two for those that a fault kills.  All of it is said
while a QEMU still comes up: a process that is needed is nearly always ready.
"""

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.asking import ask
from loadfuzz.qemu.brief import BriefFolder, sweep
from loadfuzz.qemu.instance import accelerator, place_for
from loadfuzz.qemu.machine import START_DEADLINE_S, MachineSpec
from loadfuzz.qemu.monitor import Monitor, Reply, encode
from loadfuzz.qemu.pace import FLOOR_S
from loadfuzz.qemu.process import PRINTED_MAX, REAP_DEADLINE_S, Process, complaint_of, end_all
from loadfuzz.qemu.proxy import pair
from loadfuzz.qemu.vitals import CPUClock

READY_MAX: Final = 16
"""Destinations that may wait; each takes some 40 MB."""
ENDING_MAX: Final = 8
"""Killed processes that may not be gone yet; one is in some milliseconds."""
START_TRIES: Final = 3
"""One may have died while it waited; the last try is with one that is started just now, and
says why it does not come up."""
ANSWER_S: Final = 5.0
"""CPU seconds after which a command counts as a hang; a source's guest uses some of them."""
_FILES_SIZE: Final = 1 << 20
"""Bytes for the words of one process."""
_NAME: Final = "stream"
"""What QEMU calls the descriptor."""
_BLANK: Final = b"\n"
"""What carries a descriptor: a byte that is no command and gets no answer."""
_GETFD: Final = encode("getfd", fdname=_NAME)
_OUT: Final = encode("migrate", uri=f"fd:{_NAME}")
_IN: Final = encode("migrate-incoming", uri=f"fd:{_NAME}")
_HELLO: Final = encode("qmp_capabilities")
_CONT: Final = encode("cont")


class Role(StrEnum):
    """What a QEMU is there for."""

    SOURCE = "source"
    DESTINATION = "destination"


class Peer:
    """One of them; made by :meth:`start`.

    Attributes:
        role, process, monitor, clock: of it.
        killed: we have ended it, so that its end is no news.
        migrations: how often a source has tried.
        owed: answers to commands that nobody has waited for.
    """

    __slots__ = (
        "_folder", "_greeting", "_is_ready", "_spec", "_stream", "clock", "killed", "migrations",
        "monitor", "owed", "process", "role",
    )  # fmt: skip

    def __init__(
        self,
        role: Role,
        spec: MachineSpec,
        folder: BriefFolder,
        process: Process,
        greeting: Sequence[bytes],
        stream: socket.socket | None,
    ) -> None:
        self.role = role
        self.process = process
        self.monitor = Monitor(process.channel)
        self.clock = CPUClock(process.pid)
        self.killed = False
        self.migrations = 0
        self.owed = 0
        self._spec = spec
        self._folder = folder
        self._greeting = len(greeting)
        self._stream = stream
        self._is_ready = False
        self.monitor.send(*greeting)

    @classmethod
    def start(cls, role: Role, spec: MachineSpec, base: Path, *, autostart: bool = False) -> "Peer":
        """Start a QEMU and do not wait until it is :meth:`ready`; takes some milliseconds.

        Args:
            role: a source begins to run its guest, a destination to wait for a stream.
            spec: the machine, without an ``-incoming``.
            base: folder in which it has a folder of its own until it is ready.
            autostart: a destination runs its guest when it has it, as without ``-S``: ``cont``
                to one that waits means that (``qmp_cont`` in monitor/qmp-cmds.c).

        Raises:
            UsageError: the binary cannot be run.
            InfraError: no room, or no process can be started; nothing is left behind.
        """
        more = [*accelerator(spec), "-no-shutdown"]
        greeting = [_HELLO, _CONT]
        if role is Role.DESTINATION:
            more += ["-incoming", "defer"]
            greeting = [_HELLO, *([_CONT] if autostart else []), _GETFD, _IN]
        brief = BriefFolder(base)
        with contextlib.ExitStack() as undo:
            undo.callback(brief.remove)
            ours: socket.socket | None = None
            theirs: socket.socket | None = None
            if role is Role.DESTINATION:
                try:
                    ours, theirs = pair(marked=True)
                except OSError as error:
                    raise _no_socket(error) from error
                undo.callback(ours.close)
                undo.callback(theirs.close)
            process = spec.start(brief.path / "stderr", more, file_size=PRINTED_MAX)
            undo.pop_all()
        if theirs is not None:
            _hand(process, theirs)
        return cls(role, spec, brief, process, greeting, ours)

    async def ready(self) -> None:
        """Wait until it runs its guest, or waits for one.  Asking again does nothing.

        Cancellation leaves it running.

        Raises:
            UsageError: it ended before; with QEMU's own words.
            InfraError: it does not answer, not in QMP, or refuses.
        """
        if self._is_ready:
            return
        binary = self._spec.binary
        if not await self.monitor.wait(self._greeting, START_DEADLINE_S):
            raise InfraError(
                f"{binary!r} did not speak QMP within {START_DEADLINE_S:.0f} s; is it a QEMU? "
                f"({complaint_of(self.process.stderr)})"
            )
        answers = self.monitor.replies(self._greeting)
        if len(answers) < self._greeting:
            code = await self.process.wait(REAP_DEADLINE_S)
            raise UsageError(
                f"{binary!r} ended with status {code} before it was a {self.role}: "
                f"{complaint_of(self.process.stderr)}"
            )
        refused = next((answer.error for answer in answers if answer.error), "")
        if refused:
            raise InfraError(f"{binary!r} cannot be a {self.role}: {refused}")
        self._folder.remove()
        self._is_ready = True

    def settle(self) -> None:
        """Unlink its files if it has come up meanwhile."""
        if self.monitor.waiting:
            self._folder.remove()

    def incoming(self) -> socket.socket:
        """Our end of the socket from which a destination reads; whoever takes it closes it."""
        assert self._stream is not None, "a destination has one, and gives it away once"
        stream, self._stream = self._stream, None
        return stream

    async def outgoing(self) -> socket.socket:
        """Have a source migrate; our end of the socket to which it writes.

        Raises:
            loadfuzz.qemu.asking.FailedError: it died or hangs.
            InfraError: it refuses to migrate, or there is no socket.
        """
        try:
            ours, theirs = pair()
        except OSError as error:
            raise _no_socket(error) from error
        try:
            _hand(self.process, theirs)
            answers = await self.ask(_GETFD, _OUT)
            refused = next((answer.error for answer in answers if answer.error), "")
            if refused:
                raise InfraError(f"QEMU refuses to migrate: {refused}")
        except BaseException:
            ours.close()
            raise
        self.migrations += 1
        return ours

    async def ask(self, *commands: bytes) -> list[Reply]:
        """Answers to commands.

        Raises:
            loadfuzz.qemu.asking.FailedError: it died or hangs.
            InfraError: what it answers is no QMP.
        """
        return await ask(self, commands, "", limit_s=ANSWER_S, first_look_s=FLOOR_S)

    def kill(self) -> None:
        """Have it end, without waiting for that; it has no names and no channels any more."""
        self.killed = True
        self.process.kill()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.monitor.close()
        self._folder.remove()

    async def end(self) -> None:
        """Kill it and wait until it is gone.

        Cancellation leaves it killed.

        Raises:
            InfraError: it does not die.
        """
        self.kill()
        await self.process.end()


class Peers:
    """Sources and destinations of one machine; made by :func:`peers`.

    Args:
        spec: the machine.
        base: folder for their words, while they come up.
        ready: destinations started ahead.
        spares: sources started ahead.
        autostart: see :meth:`Peer.start`.
    """

    __slots__ = ("_autostart", "_base", "_ending", "_lent", "_ready", "_spec", "_waiting")

    def __init__(
        self, spec: MachineSpec, base: Path, ready: int, spares: int, *, autostart: bool
    ) -> None:
        self._spec = spec
        self._base = base
        self._autostart = autostart
        self._ready = {Role.SOURCE: spares, Role.DESTINATION: ready}
        self._waiting: dict[Role, deque[Peer]] = {role: deque() for role in Role}
        self._lent: list[Peer] = []
        self._ending: deque[Peer] = deque()

    async def take(self, role: Role) -> Peer:
        """One that is ready; to be given back with :meth:`give_back`.

        Raises:
            UsageError: QEMU cannot be started so.
            InfraError: it cannot be started any more.
        """
        waiting = self._waiting[role]
        for left in reversed(range(START_TRIES)):
            peer = waiting.popleft() if waiting and left else self._start(role)
            self._lent.append(peer)
            try:
                await peer.ready()
            except BaseException as error:
                self._lent.remove(peer)
                await peer.end()
                if not left or not isinstance(error, UsageError | InfraError):
                    raise
            else:
                return peer
        raise AssertionError("the last try returns or raises")

    def refill(self) -> None:
        """Start as many as are missing; they come up while others are at work."""
        for role, waiting in self._waiting.items():
            for peer in waiting:
                peer.settle()
            # What cannot be started now is tried again when it is needed, and then says why.
            with contextlib.suppress(UsageError, InfraError):
                while len(waiting) < self._ready[role]:
                    waiting.append(self._start(role))

    async def give_back(self, peer: Peer) -> None:
        """It is needed no more: end it."""
        self._lent.remove(peer)
        peer.kill()
        self._ending.append(peer)
        while self._ending:
            oldest = self._ending[0]
            if oldest.process.returncode is None and len(self._ending) <= ENDING_MAX:
                break
            self._ending.popleft()
            await oldest.end()

    async def close(self) -> None:
        """End all processes.

        Raises:
            InfraError: one does not die; the others are ended all the same.
        """
        every = [*self._lent, *self._ending]
        for waiting in self._waiting.values():
            every += waiting
            waiting.clear()
        self._lent.clear()
        self._ending.clear()
        await end_all(every)

    def _start(self, role: Role) -> Peer:
        return Peer.start(role, self._spec, self._base, autostart=self._autostart)


@contextlib.asynccontextmanager
async def peers(
    spec: MachineSpec,
    folder: Path,
    *,
    ready: int = 2,
    spares: int = 1,
    autostart: bool = False,
) -> AsyncIterator[Peers]:
    """Sources and destinations, for the duration of an ``async with`` block.

    However the block is left, no process and no file of them remains.  From the main thread:
    the kernel ties a QEMU to the thread that started it.

    Args:
        spec: the machine.
        folder: for their words where shared memory has no room; it exists, and is nobody
            else's.
        ready: destinations started ahead, up to :data:`READY_MAX`.
        spares: sources started ahead beside those at work, as many.
        autostart: destinations run their guest as soon as they have it, as QEMU without
            ``-S`` does.

    Raises:
        UsageError: so many cannot be started ahead.
        InfraError: something of ours failed.
    """
    if not (0 <= ready <= READY_MAX and 0 <= spares <= READY_MAX):
        raise UsageError(
            f"{ready} and {spares} processes started ahead are not possible; use 0 to {READY_MAX}"
        )
    base = place_for(folder, (ready + spares + 2) * _FILES_SIZE)
    sweep(base)
    crew = Peers(spec, base, ready, spares, autostart=autostart)
    try:
        yield crew
    finally:
        await crew.close()


def _hand(process: Process, theirs: socket.socket) -> None:
    """Send a descriptor along; ``getfd`` is to follow."""
    with theirs, contextlib.suppress(OSError):  # if it has ended, being asked shows it
        socket.send_fds(process.channel, [_BLANK], [theirs.fileno()])


def _no_socket(error: OSError) -> InfraError:
    return InfraError(f"no sockets: {error.strerror or error}; raise the limit of open files")
