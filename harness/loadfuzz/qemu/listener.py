"""A QEMU that waits for one stream: started with ``-incoming defer`` and told where it comes from.

The stream goes over a socket pair whose other end QEMU is given over QMP (``getfd``, which
takes a descriptor sent along with it; monitor/fds.c, earlier monitor/misc.c): nothing has a
name, nothing listens, and closing our half for writing is a true end of file.  All of this is
said while QEMU still comes up, so that one that is ready only has to read.

QEMU loads in its main loop and leaves it only where the stream is dry (``qemu_fill_buffer``
in migration/qemu-file.c).  So a question that is asked behind the end of the stream is
answered when the load is over; where it is not, as in releases that load in a thread, it is
asked again.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.brief import BriefFolder
from loadfuzz.qemu.instance import accelerator
from loadfuzz.qemu.machine import START_DEADLINE_S, MachineSpec
from loadfuzz.qemu.monitor import Monitor, Reply, encode
from loadfuzz.qemu.process import PRINTED_MAX, REAP_DEADLINE_S, Process, complaint_of
from loadfuzz.qemu.starter import HeldFile, Starter
from loadfuzz.qemu.tracelog import TraceLog, log_arguments
from loadfuzz.qemu.vitals import CPUClock

_NAME: Final = "stream"
"""What QEMU calls the descriptor."""
_GREETING: Final = (
    encode("qmp_capabilities"),
    encode("getfd", fdname=_NAME),
    encode("migrate-incoming", uri=f"fd:{_NAME}"),
)
_BLANK: Final = b"\n"
"""What carries the descriptor: a byte that is no command and gets no answer."""
_SEND_SIZE: Final = 1 << 18
"""Bytes given to the socket at once: more than it takes."""


class Listener:
    """A QEMU that has not loaded yet, or is loading; made by :meth:`start`.

    Attributes:
        process, monitor, log, clock: of it.
    """

    __slots__ = (
        "_folder", "_is_ready", "_sent", "_spec", "_stream", "clock", "log", "monitor", "process",
    )  # fmt: skip

    def __init__(
        self,
        spec: MachineSpec,
        folder: BriefFolder,
        log: TraceLog,
        process: Process,
        monitor: Monitor,
        stream: socket.socket,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._stream = stream
        self._sent = 0
        self._is_ready = False
        self.log = log
        self.process = process
        self.monitor = monitor
        self.clock = CPUClock(process.pid)

    @classmethod
    def start(cls, spec: MachineSpec, base: Path, starter: Starter) -> "Listener":
        """Start a QEMU and do not wait until it is :meth:`ready`; takes some milliseconds.

        Args:
            spec: the machine, without an ``-incoming``.
            base: folder in which it has a folder of its own until it is ready.
            starter: from :func:`starter_of`, of the same machine.

        Raises:
            UsageError: the binary cannot be run.
            InfraError: no room, or no process can be started; nothing is left behind.
        """
        brief = BriefFolder(base)
        folder = brief.path
        with contextlib.ExitStack() as undo:
            undo.callback(brief.remove)
            try:
                log = TraceLog(folder / "log")
                undo.callback(log.close)
                stream, theirs = socket.socketpair()
                undo.callback(stream.close)
                undo.callback(theirs.close)
            except OSError as error:
                raise InfraError(
                    f"using {folder} failed: {error.strerror or error}; make room there, or "
                    "raise the limit of open files"
                ) from error
            process = starter.start(folder / "stderr", [HeldFile(log.path, log.descriptor)])
            undo.pop_all()
        with theirs, contextlib.suppress(OSError):  # if it has ended, being ready shows it
            socket.send_fds(process.channel, [_BLANK], [theirs.fileno()])
        stream.setblocking(False)
        monitor = Monitor(process.channel)
        monitor.send(*_GREETING)
        return cls(spec, brief, log, process, monitor, stream)

    async def ready(self) -> None:
        """Wait until it waits for the stream.  Asking again does nothing.

        Cancellation leaves it running.

        Raises:
            UsageError: it ended before; with QEMU's own words.
            InfraError: it does not answer, not in QMP, or does not take the descriptor.
        """
        if self._is_ready:
            return
        binary, count = self._spec.binary, len(_GREETING)
        if not await self.monitor.wait(count, START_DEADLINE_S):
            raise InfraError(
                f"{binary!r} did not speak QMP within {START_DEADLINE_S:.0f} s; is it a QEMU? "
                f"({complaint_of(self.process.stderr)})"
            )
        answers = self.monitor.replies(count)
        if len(answers) < count:
            code = await self.process.wait(REAP_DEADLINE_S)
            raise UsageError(
                f"{binary!r} ended with status {code} before it waited for a stream: "
                f"{complaint_of(self.process.stderr)}"
            )
        refused = next((answer.error for answer in answers if answer.error), "")
        if refused:
            raise InfraError(f"{binary!r} does not take a stream over a descriptor: {refused}")
        self._unname()
        self._is_ready = True

    def settle(self) -> None:
        """Unlink its files if it has come up meanwhile."""
        if self.monitor.waiting:
            self._unname()

    def feed(self, stream: bytes, then: Callable[[], None]) -> None:
        """Begin to send the stream and its end; the event loop goes on with it.

        Args:
            stream: all of its bytes.
            then: called when QEMU has got or refused all of it, maybe before this returns.
        """
        view = memoryview(stream)
        loop = asyncio.get_running_loop()
        descriptor = self._stream.fileno()

        def pump() -> None:
            try:
                while self._sent < len(view):
                    self._sent += self._stream.send(view[self._sent : self._sent + _SEND_SIZE])
                self._stream.shutdown(socket.SHUT_WR)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                pass  # it has refused before it had read everything
            loop.remove_writer(descriptor)
            then()

        loop.add_writer(descriptor, pump)
        pump()

    def kill(self) -> None:
        """Have it end, without waiting for that; it has no names and no channels any more."""
        self.process.kill()
        if self._stream.fileno() >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                asyncio.get_running_loop().remove_writer(self._stream.fileno())
            self._stream.close()
        self.monitor.close()
        self.log.close()
        self._unname()

    async def end(self) -> None:
        """Kill it and wait until it is gone.

        Cancellation leaves it killed.

        Raises:
            InfraError: it does not die.
        """
        self.kill()
        await self.process.end()

    def _unname(self) -> None:
        self._folder.remove()


def starter_of(spec: MachineSpec) -> Starter:
    """What starts the listeners of a machine; each has a log."""

    def arguments(names: Sequence[str]) -> list[str]:
        (log,) = names
        more = ["-no-shutdown", "-incoming", "defer", *log_arguments(log)]
        return [*accelerator(spec), *more]

    return Starter(spec, arguments, 1, PRINTED_MAX)


def progress_of(reply: Reply) -> str:
    """The state in an answer to ``query-migrate``: ``active``, ``completed``, ``failed``; ""
    while nothing has come."""
    match reply.value:
        case {"status": str(status)}:
            return status
        case _:
            return ""


def reason_of(reply: Reply) -> str:
    """QEMU's words in an answer to ``query-migrate`` about one that failed, or ""."""
    match reply.value:
        case {"error-desc": str(text)}:
            return text
        case _:
            return ""
