"""A QEMU as a process: started, watched and certainly ended.

It leads a session of its own and is started through :mod:`loadfuzz.launching`, so that the
kernel ends it when we end, however that comes.  QMP runs over a socket pair of which only
QEMU holds the other end: its death closes the channel at once.  What it prints goes to a
file that is looked at when it grew and emptied when it is long.

Starting waits for nothing: a QEMU that is needed later can be started now, and its
greeting be waited for then.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.launching import launched

STDERR_SIZE_MAX: Final = 1 << 20
"""Bytes of QEMU's output that are kept: one load prints some lines, and the file may be in
memory."""
PRINTED_MAX: Final = 64 << 20
"""Bytes that a file which QEMU prints to may grow to, however long one load goes on printing:
beyond, its writes fail (``RLIMIT_FSIZE``).  The limit is of a process, so that an image of
its own comes on top."""
STDERR_READ_MAX: Final = 1 << 16
"""Bytes of it that are read at once, from the end: what matters was said last."""
STDERR_SHOWN_MAX: Final = 4096
"""Bytes of it worth showing in an error message."""
REAP_DEADLINE_S: Final = 10.0
"""A killed process is gone at once unless the kernel holds it; then we say so."""
_POLL_MIN_S: Final = 0.0005
_POLL_MAX_S: Final = 0.05
"""How often to look whether it ended, growing from the one to the other: its channel closes
a moment before it can be reaped."""
_COMPLAINTS: Final = 40
"""Lines of output in an error message."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        returncode: exit status; negative for a signal.
        said: the end of what it printed since it was last asked.
    """

    returncode: int
    said: str

    @property
    def how(self) -> str:
        """``SIGABRT``, or ``exit status 1``."""
        if self.returncode >= 0:
            return f"exit status {self.returncode}"
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


class Child(Protocol):
    """A process of ours, however it came to be."""

    @property
    def pid(self) -> int:
        """Its process id, also of its session."""
        ...

    def poll(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        ...


class Process:
    """A started QEMU; ended by :meth:`end`.

    Attributes:
        pid: its process id, also of its session.
        channel: our end of its QMP socket, blocking; whoever speaks over it closes it.
        stderr: the file that has what it prints.
    """

    __slots__ = ("_child", "_heard", "_output", "channel", "pid", "stderr")

    def __init__(self, child: Child, channel: socket.socket, stderr: Path, output: int) -> None:
        self.pid = child.pid
        self.channel = channel
        self.stderr = stderr
        self._child = child
        self._output = output
        self._heard = 0

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        return self._child.poll()

    def news(self) -> str:
        """What it printed since this was last asked, "" for nothing.

        At most the last :data:`STDERR_READ_MAX` bytes; a file that has become longer than
        :data:`STDERR_SIZE_MAX` is emptied.
        """
        size = os.fstat(self._output).st_size
        if size <= self._heard:
            return ""
        begin = max(self._heard, size - STDERR_READ_MAX)
        data = os.pread(self._output, STDERR_READ_MAX, begin)
        self._heard = size
        if size > STDERR_SIZE_MAX:
            # It appends, so it goes on at the beginning.
            os.ftruncate(self._output, 0)
            self._heard = 0
        return data.decode("utf-8", "replace")

    def ending(self, returncode: int) -> Ending:
        """How it ended, and the last it had to say."""
        return Ending(returncode, self.news())

    async def wait(self, timeout_s: float) -> int | None:
        """Exit status, or ``None`` if it still runs after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        pause_s = _POLL_MIN_S
        while (code := self._child.poll()) is None:
            if loop.time() >= until:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _POLL_MAX_S)
        return code

    def kill(self) -> None:
        """End it and all in its session; does not wait."""
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, wait until it is gone, and close the file of what it printed.

        Cancellation leaves it killed.

        Raises:
            InfraError: it does not die.
        """
        self.kill()
        try:
            if await self.wait(REAP_DEADLINE_S) is None:
                raise InfraError(
                    f"QEMU process {self.pid} cannot be killed; it hangs in the kernel, probably "
                    "on a dead disk or network file system"
                )
        finally:
            if self._output >= 0:
                os.close(self._output)
                self._output = -1


def complaint_of(stderr: Path) -> str:
    """The end of a file of error output, on one line."""
    text = stderr.read_bytes()[-STDERR_SHOWN_MAX:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-_COMPLAINTS:]) or "it said nothing"


def start(
    argv: Sequence[str],
    channel: socket.socket,
    theirs: socket.socket,
    stderr: Path,
    *,
    environment: Sequence[tuple[str, str]] = (),
    address_space: int | None = None,
    file_size: int | None = None,
) -> Process:
    """Start QEMU; takes some milliseconds and does not wait for its greeting.

    To be called from the main thread: the kernel ties a child to the thread that
    started it.

    Args:
        argv: its command line.
        channel: our end of its QMP socket; the process has it from now on.
        theirs: the other end, which ``argv`` names; closed here.
        stderr: file for what it prints.
        environment: variables that are set beside our own.
        address_space: limit in bytes, ``None`` for none.
        file_size: bytes that a file of it may grow to, ``None`` for any number.

    Raises:
        UsageError: the binary is not there or may not be run.
        InfraError: no process can be started.
    """
    try:
        program = program_of(argv[0])
        output = open_output(stderr)
        try:
            popen = subprocess.Popen(
                launched([program, *argv[1:]], address_space, file_size),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **dict(environment)},
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            os.close(output)
            raise
    except OSError as error:
        channel.close()
        raise InfraError(
            f"cannot start a process: {error.strerror}; check the limits of processes and memory"
        ) from error
    except BaseException:
        channel.close()
        raise
    finally:
        # Only QEMU may hold its end, or its death would go unnoticed.
        theirs.close()
    return Process(popen, channel, stderr, output)


def program_of(binary: str) -> str:
    """The path of a program.

    Raises:
        UsageError: it is not there or may not be run.
    """
    program = shutil.which(binary)
    if program is None:
        reason = "Permission denied" if Path(binary).exists() else "No such file or directory"
        raise UsageError(f"cannot run {binary!r}: {reason}; name a qemu-system binary with --qemu")
    return program


def open_output(stderr: Path) -> int:
    """A descriptor of the file for what a QEMU prints, which is made.

    Raises:
        OSError: it cannot be.
    """
    return os.open(stderr, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class Endable(Protocol):
    """Something with a process."""

    def kill(self) -> None:
        """End it and give back what it holds, without waiting until it is gone."""
        ...

    async def end(self) -> None:
        """The same, and wait.

        Raises:
            InfraError: it does not die.
        """
        ...


async def end_all(every: Sequence[Endable]) -> None:
    """End all of them at once.

    Cancellation leaves them killed.

    Raises:
        InfraError: one does not die; the others are ended all the same.
    """
    for one in every:
        one.kill()
    failure: InfraError | None = None
    for one in every:
        try:
            await one.end()
        except InfraError as error:
            failure = error
    if failure is not None:
        raise failure
