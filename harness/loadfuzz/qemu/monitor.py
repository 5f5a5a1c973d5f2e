"""A QMP channel for thousands of commands a second.

``qemu.qmp`` is made for management: tasks, queues, logging and a model of each message
take a third of the loads that a QEMU can do per second.  Here a line is written and lines
are read; several commands may be under way, and QEMU answers them in order.

QEMU reads QMP one byte at a time (``monitor_can_read`` in monitor/monitor.c), so commands
are written without a blank too many.  And it stops reading while a command waits for the main
loop, unless out-of-band execution was agreed on (``qmp_oob_enabled`` in monitor/qmp.c): then
its thread reads on during a ``loadvm``, and what was sent behind that is at hand when it ends.
That is why :data:`NEGOTIATION` asks for it; no command of ours is executed out of band.
"""

import asyncio
import json
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from loadfuzz.errors import InfraError

REPLY_SIZE_MAX: Final = 1 << 22
"""Bytes of one line from QEMU: what a monitor command prints comes in one, and a load that
prints a line for each of some thousand fields still fits."""
REPLIES_MAX: Final = 16
"""Commands under way at the same time; more than two are never needed."""
COMMAND_SIZE_MAX: Final = 1 << 14
"""Bytes of a command: what a socket surely takes at once."""
_READ_SIZE: Final = 1 << 16
_KNOWN_MAX: Final = 64
"""Answers that are remembered as they came, since nearly all are alike: the empty one, the
state, the most frequent refusals."""
_KNOWN_SIZE_MAX: Final = 512
"""Bytes of an answer that is remembered."""
_SHOWN: Final = 120
"""Characters of what was not understood, for error messages."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a command.

    Attributes:
        value: what it returned, decoded from JSON.
        error: QEMU's words where it refused, else "".
    """

    value: object
    error: str = ""

    @property
    def text(self) -> str:
        """What an HMP command printed, or why QEMU refused to run it."""
        return self.value if isinstance(self.value, str) else self.error


def encode(command: str, **arguments: object) -> bytes:
    """A command as it goes over the channel; underscores of names become hyphens."""
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = {key.replace("_", "-"): arguments[key] for key in arguments}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def encode_hmp(line: str) -> bytes:
    """A command of the human monitor, whose reply is what it prints."""
    return encode("human-monitor-command", command_line=line)


NEGOTIATION: Final = (encode("qmp_capabilities", enable=["oob"]), encode("qmp_capabilities"))
"""What has to be said first.  A QEMU takes one of the two: the first, or, where it cannot
execute out of band (before 4.0), the second."""


def refusal_of(answers: Sequence[Reply]) -> str:
    """Why a QEMU took no part of :data:`NEGOTIATION`, "" if it took one."""
    return "" if any(not answer.error for answer in answers) else answers[-1].error


class Monitor:
    """Our end of a QMP channel.

    Used by one task at a time, within one event loop.

    Args:
        channel: a connected socket; closed by :meth:`close`.
    """

    __slots__ = (
        "_buffer", "_channel", "_deadline_s", "_ended", "_greeted", "_known", "_loop", "_misread",
        "_pending", "_replies", "_timer", "_waiter", "_wanted",
    )  # fmt: skip

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._replies: deque[Reply] = deque()
        self._known: dict[bytes, Reply] = {}
        self._pending = 0
        self._ended = False
        self._greeted = False
        self._misread: str | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._wanted = 0
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(channel.fileno(), self._read)

    @property
    def ended(self) -> bool:
        """Whether QEMU has closed its end: it is dead or dying."""
        return self._ended

    @property
    def waiting(self) -> bool:
        """Whether there are answers that nobody has taken."""
        return bool(self._replies)

    def send(self, *commands: bytes) -> None:
        """Write commands, made by :func:`encode`; do not wait for answers.

        An end of QEMU shows at the next :meth:`replies`.

        Raises:
            InfraError: QEMU does not read.
        """
        data = b"".join(commands)
        self._pending += len(commands)
        assert len(data) <= COMMAND_SIZE_MAX, "a longer command may be written in part"
        assert self._pending <= REPLIES_MAX, "too many commands at once"
        try:
            written = self._channel.send(data)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            return  # it is gone; reading says so
        if written != len(data):
            raise InfraError("QEMU does not read its commands; look whether it is stopped")

    async def wait(self, count: int, timeout_s: float) -> bool:
        """Wait until ``count`` answers are there, or QEMU has gone.

        Returns:
            False when ``timeout_s`` has passed before.

        Raises:
            InfraError: what comes is no QMP.
        """
        if len(self._replies) < count and not self._ended and self._misread is None:
            waiter = self._waiter = self._loop.create_future()
            self._wanted = count
            self._arm(self._loop.time() + timeout_s)
            try:
                done = await waiter
            finally:
                self._waiter = None
            if not done:
                return False
        if self._misread is not None:
            raise InfraError(f"QEMU does not speak QMP: {self._misread!r}; is it a QEMU?")
        return True

    def replies(self, count: int) -> list[Reply]:
        """The next answers, as many of ``count`` as there are: fewer when QEMU has gone."""
        have = min(count, len(self._replies))
        self._pending -= have
        return [self._replies.popleft() for _ in range(have)]

    async def ask(self, commands: Sequence[bytes], timeout_s: float) -> list[Reply] | None:
        """Send commands and wait for all answers.

        Returns:
            The answers, fewer than commands when QEMU has gone; ``None`` when ``timeout_s``
            has passed.

        Raises:
            InfraError: QEMU does not read, or what comes is no QMP.
        """
        self.send(*commands)
        if not await self.wait(len(commands), timeout_s):
            return None
        return self.replies(len(commands))

    def close(self) -> None:
        """Let go of the channel.  Closing again does nothing."""
        if self._channel.fileno() >= 0:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake(True)

    def _read(self) -> None:
        try:
            data = self._channel.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._ended = True
            self._loop.remove_reader(self._channel.fileno())
            self._wake(True)
            return
        buffer = self._buffer
        buffer += data
        if self._misread is None and b"\n" in data:
            *lines, rest = buffer.split(b"\n")
            self._buffer = bytearray(rest)
            for line in lines:
                if not self._take(bytes(line)):
                    self._misread = line[:_SHOWN].decode("utf-8", "replace")
                    break
        if len(self._buffer) > REPLY_SIZE_MAX:
            self._misread = self._buffer[:_SHOWN].decode("utf-8", "replace")
            self._buffer.clear()
        if len(self._replies) >= self._wanted or self._misread is not None:
            self._wake(True)

    def _take(self, line: bytes) -> bool:
        """A line from QEMU; False if it is none of those that QMP has."""
        reply = self._known.get(line)
        if reply is not None:
            self._replies.append(reply)
            return len(self._replies) <= self._pending
        try:
            message: object = json.loads(line)
        except (ValueError, RecursionError):
            return False
        match message:
            case {"event": str()}:
                return True
            case {"return": value}:
                reply = Reply(value)
            case {"error": {"desc": str(text)}}:
                reply = Reply(None, text or "an error without words")
            case {"QMP": _} if not self._greeted:
                self._greeted = True
                return True
            case _:
                return False
        if len(line) <= _KNOWN_SIZE_MAX and len(self._known) < _KNOWN_MAX:
            self._known[line] = reply
        self._replies.append(reply)
        return len(self._replies) <= self._pending  # an answer that nobody asked for

    def _arm(self, deadline_s: float) -> None:
        """Have a wait end at ``deadline_s`` of the loop's clock.

        A timer is not cancelled after each wait but looks, when it rings, whether it is time:
        waits are many and nearly always short.
        """
        self._deadline_s = deadline_s
        if self._timer is not None:
            if self._timer.when() <= deadline_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() >= self._deadline_s:
            self._wake(False)
        else:
            self._timer = self._loop.call_at(self._deadline_s, self._ring)

    def _wake(self, done: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(done)
