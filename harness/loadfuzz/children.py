"""Child processes that cannot get out of hand.

Each child leads a session of its own, so that Ctrl-C on the terminal reaches
only us and one ``killpg`` reaches all it started; the kernel kills it when we
die, however we die (see :mod:`loadfuzz.launch`); what it prints is read as it
comes, in bounded memory; and no wait for it is without an end.

asyncio's own subprocesses are not used: their ``wait`` may hang while somebody
holds the pipe, and on Python 3.11 they cost a thread each.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz import launch
from loadfuzz.errors import InfraError

LINE_SIZE_MAX: Final = 1 << 20
"""Longest line read from a child in bytes; events are a few kB at most."""
TAIL_SIZE_MAX: Final = 8192
"""Bytes kept of what a child last wrote to stderr: a traceback or a sanitizer's summary."""
READ_SIZE: Final = 1 << 16
"""Bytes read at once: the size of a pipe, so that one flooding child cannot starve the others."""
SEND_MAX: Final = 4096
"""Bytes that a pipe takes at once, whole or not at all (POSIX ``PIPE_BUF`` on Linux)."""
DRAIN_TIMEOUT_S: Final = 2.0
"""How long after a child's end its pipes may stay open; somebody who left its session has them."""
REAP_TIMEOUT_S: Final = 5.0
"""How long a killed child may take to be gone; longer means it hangs in the kernel."""
_POLL_S: Final = 0.05
"""Where there are no pidfds (other than Linux), how often to look whether a child ended."""

OnLine = Callable[[bytes], None]
"""Called with each line of a child's stdout, without its newline; must not block."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended.

    Attributes:
        status: exit status, ``None`` when a signal ended it.
        signal: that ended it, ``None`` when it exited.
        stderr: the last it said there, at most :data:`TAIL_SIZE_MAX` bytes.
    """

    status: int | None
    signal: int | None
    stderr: str

    @property
    def returncode(self) -> int:
        """As :attr:`subprocess.Popen.returncode` has it: negative for a signal."""
        return self.status if self.status is not None else -(self.signal or 0)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {self.status}"
        try:
            return f"signal {signal.Signals(self.signal).name}"
        except ValueError:
            return f"signal {self.signal}"


class _Lines:
    """Cuts a stream of bytes into lines of bounded length."""

    __slots__ = ("_deliver", "_pending", "_skipping", "too_long")

    def __init__(self, deliver: OnLine) -> None:
        self._deliver = deliver
        self._pending = bytearray()
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> None:
        self._pending += data
        *lines, rest = self._pending.split(b"\n")
        self._pending = rest
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._deliver(bytes(line))
        if len(self._pending) > LINE_SIZE_MAX:
            self._pending.clear()
            if not self._skipping:
                self._skipping = True
                self.too_long += 1

    def finish(self) -> None:
        if self._pending and not self._skipping:
            self._deliver(bytes(self._pending))
        self._pending.clear()


class Child:
    """A running child; made by :func:`spawn`.

    Attributes:
        pid: its process id, also of its process group.
    """

    def __init__(self, process: subprocess.Popen[bytes], on_line: OnLine) -> None:
        self.pid = process.pid
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._lines = _Lines(on_line)
        self._tail = bytearray()
        self._ended = asyncio.Event()
        self._drained = asyncio.Event()
        self._swept = False
        self._failure: Exception | None = None
        assert process.stdout is not None
        assert process.stderr is not None
        self._open = {
            process.stdout.fileno(): self._lines.feed,
            process.stderr.fileno(): self._keep_tail,
        }
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._read, descriptor)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
        self._pidfd = _open_pidfd(process.pid)
        if self._pidfd is None:
            self._poll()
        else:
            self._loop.add_reader(self._pidfd, self._notice_end)

    @property
    def lines_too_long(self) -> int:
        """Lines that were thrown away for their length."""
        return self._lines.too_long

    def send(self, line: bytes) -> None:
        """Write a line to the stdin of a child that was spawned with one.

        Args:
            line: with its newline; at most :data:`SEND_MAX` bytes are under way at a time, so
                send one and wait for what the child says to it.

        Raises:
            InfraError: the child does not read, or is gone.
        """
        assert self._process.stdin is not None, "spawned without a stdin"
        assert len(line) <= SEND_MAX, "a longer line may be written in part"
        try:
            written = os.write(self._process.stdin.fileno(), line)
        except OSError as error:
            raise InfraError(f"process {self.pid} does not listen: {error.strerror}") from error
        if written < len(line):
            raise InfraError(f"process {self.pid} does not read what it is sent")

    def terminate(self) -> None:
        """Ask the child to stop (SIGTERM to the child alone: it stops what it started)."""
        if not self._ended.is_set():
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child and all that it started in its session."""
        if self._swept:
            return
        # Once the child is reaped its number may be given away: one last time, at once, not later.
        self._swept = self._ended.is_set()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, grace_s: float) -> Exit:
        """Ask it to stop, and end it when it has not after ``grace_s``.

        Cancellation leaves it running; :func:`spawn` then kills it.

        Raises:
            InfraError: it does not die.
            Exception: whatever ``on_line`` raised.
        """
        self.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
        try:
            async with asyncio.timeout(REAP_TIMEOUT_S + DRAIN_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            raise InfraError(self._undead()) from None

    async def wait(self) -> Exit:
        """Wait for its end and for the last it had to say.

        Cancellation leaves the child running; :func:`spawn` then kills it.

        Raises:
            Exception: whatever ``on_line`` raised; the child was killed for it.
        """
        await self._ended.wait()
        # Whatever it started ends with it, and with that the pipes are closed.
        self.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._drained.wait()
        if self._failure is None:
            try:
                self._lines.finish()
            except Exception as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure
        code = self._process.returncode
        return Exit(
            status=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            stderr=self._tail.decode("utf-8", "replace"),
        )

    async def _end(self) -> None:
        """Kill what is left and let go of everything."""
        self.kill()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(REAP_TIMEOUT_S):
                    await self._ended.wait()
        finally:
            for descriptor in list(self._open):
                self._close(descriptor)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
            self._close_pidfd()
        if not self._ended.is_set():
            raise InfraError(self._undead())

    def _undead(self) -> str:
        return (
            f"process {self.pid} does not die {REAP_TIMEOUT_S:.0f} s after SIGKILL; "
            "it hangs in the kernel, probably on a dead disk or network file system"
        )

    def _keep_tail(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-TAIL_SIZE_MAX]

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(descriptor)
            return
        if self._failure is None:
            try:
                self._open[descriptor](data)
            except Exception as error:
                self._failure = error
                self.kill()

    def _close(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        self._open.pop(descriptor, None)
        if not self._open:
            self._drained.set()

    def _notice_end(self) -> None:
        if self._process.poll() is not None:
            self._ended.set()
            self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _poll(self) -> None:
        self._notice_end()
        if not self._ended.is_set():
            self._loop.call_later(_POLL_S, self._poll)


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that does not know it
        return None


def _start(
    argv: Sequence[str],
    folder: Path | None,
    environment: Mapping[str, str] | None,
    *,
    feed: bool,
) -> subprocess.Popen[bytes]:
    """Start it; takes some milliseconds, until the child has become the launcher."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *argv],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise InfraError(
            f"cannot start a process: {error.strerror}; check the limits of processes and memory"
        ) from error


@asynccontextmanager
async def spawn(
    argv: Sequence[str],
    on_line: OnLine,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    feed: bool = False,
) -> AsyncIterator[Child]:
    """Run a program as a child for the duration of a ``with`` block.

    However the block is left (also by cancellation), the child and all in its
    session are dead afterwards.  To be used from the main thread: the kernel
    ties the child to the thread that started it.

    Args:
        argv: program and arguments.
        on_line: hears each line of its stdout.
        folder: its working directory.
        environment: its environment, ours otherwise.
        feed: it has a stdin, see :meth:`Child.send`; otherwise that is empty.

    Raises:
        InfraError: it cannot be started, or does not die.
    """
    child = Child(_start(argv, folder, environment, feed=feed), on_line)
    try:
        yield child
    finally:
        await child._end()
