"""Attends to a command that was started, until it ends or has to be ended.

A hang is told from slowness by what the kernel counts for the session's processes: a load
that used up its limit of CPU time hangs, and so does one that slept as long; one that only
stood in line for a processor is slow, and so is one that waits for a disk or was stopped.

Part of :mod:`loadfuzz.executors.starter`, so it imports the standard library only.
"""

import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

HEAD_SIZE_MAX: Final = 32 << 10
"""Bytes kept of what a command first says on stderr: a sanitizer's report and its stacks."""
TAIL_SIZE_MAX: Final = 16 << 10
"""And of what it says last: the reason of a refusal, the end of a traceback."""
READ_SIZE: Final = 1 << 16
"""Bytes read or sent at once: the size of a pipe."""
DRAIN_READS_MAX: Final = 16
"""Reads of what is left on stderr after the end: more than a pipe holds."""
SLOW_TIMES: Final = 20
"""Limits of wall-clock time that a load may take while it neither computes nor sleeps; a
machine so busy that even this does not do says nothing about a loader."""
LOOK_S_MIN: Final = 0.05
"""Shortest time between two looks at the kernel's counts, which come in ticks of 10 ms."""
REPORT_S: Final = 2.0
"""How long a command that is told to abort may write its report."""
REAP_S: Final = 5.0
"""How long a killed process may take to be gone."""
HELD: Final = frozenset({"D", "T", "t"})
"""States of a thread that is not let (proc(5)): it waits for a disk, or was stopped."""
PIDS_MAX: Final = 1024
"""Processes that may be left of one run: a command that starts more is ended bit by bit."""


@dataclass(frozen=True, slots=True)
class Run:
    """How one run of the command ended.

    Attributes:
        status: exit status, ``None`` when a signal ended it.
        signal: that ended it, ``None`` when it exited.
        stopped: why we ended it: ``cpu``, ``sleep``, or ``slow`` when the machine was too busy
            to tell; "" when it ended by itself.
        cpu_s: CPU seconds of it and of what it waited for.
        stderr: first and last of what it said there.
        failed: why it could not be started, "" when it was.
    """

    status: int | None = None
    signal: int | None = None
    stopped: str = ""
    cpu_s: float = 0.0
    stderr: str = ""
    failed: str = ""


class _Words:
    """The first and the last bytes of what is said."""

    __slots__ = ("_head", "_tail")

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        room = HEAD_SIZE_MAX - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[:-TAIL_SIZE_MAX]

    def text(self) -> str:
        return (self._head + self._tail).decode("utf-8", "replace")


class Feed:
    """A listening socket that gives its first visitor the stream, then end of file."""

    __slots__ = ("_at", "_data", "_listener", "_peer")

    def __init__(self, path: str, stream: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        with open(stream, "rb") as file:
            self._data = file.read()
        self._at = 0
        self._peer: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(1)

    def wanted(self) -> tuple[int, int] | None:
        """Descriptor and poll mask of what is waited for next."""
        if self._peer is None:
            return self._listener.fileno(), select.POLLIN
        if self._at < len(self._data):
            return self._peer.fileno(), select.POLLOUT
        return None

    def go_on(self) -> None:
        """What was waited for may have come."""
        try:
            if self._peer is None:
                self._peer, _ = self._listener.accept()
                self._peer.setblocking(False)
            if self._at < len(self._data):
                self._at += self._peer.send(self._data[self._at : self._at + READ_SIZE])
            if self._at >= len(self._data):
                self._peer.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:  # it has closed the socket: it wants no more
            self._at = len(self._data)

    def close(self) -> None:
        self._listener.close()
        if self._peer is not None:
            self._peer.close()


def attend(pid: int, said: int, feed: Feed | None, limit_s: float) -> Run:
    """Hear what a command says, feed it, and end it when it hangs.

    Args:
        pid: of the command, which leads a session.
        said: descriptor from which its stderr is read.
        feed: a socket that it may read from.
        limit_s: CPU seconds, and seconds of sleep, after which it hangs.
    """
    begun = time.monotonic()
    pidfd = _pidfd_of(pid)
    os.set_blocking(said, False)
    words = _Words()
    stopped = ""
    held_s = 0.0
    hearing = True
    look_at = begun + limit_s
    give_up_at = 0.0
    try:
        while True:
            now = time.monotonic()
            # A shell that is told to abort is gone before what it started has reported.
            if _has_ended(pid) and not (stopped and hearing and now < give_up_at):
                break
            if stopped and now >= give_up_at:
                # One that does not even die of this hangs in the kernel; who gave us the
                # order does not wait for it for ever.
                _kill(pid, signal.SIGKILL)
                give_up_at = now + REAP_S
            elif not stopped and now >= look_at:
                stopped, pause_s, held_s = _look(limit_s, pid, now - begun, held_s)
                look_at = now + pause_s
                if stopped:
                    # A sanitizer, and Python, then say where they are.
                    _kill(pid, signal.SIGABRT)
                    give_up_at = now + REPORT_S
            poll = select.poll()
            if hearing:
                poll.register(said, select.POLLIN)
            if pidfd >= 0 and not stopped:
                poll.register(pidfd, select.POLLIN)
            wanted = feed.wanted() if feed is not None else None
            if wanted is not None:
                poll.register(*wanted)
            wait_s = max((give_up_at if stopped else look_at) - now, 0.0)
            if pidfd < 0 or stopped:
                wait_s = min(wait_s, LOOK_S_MIN)
            for descriptor, _ in poll.poll(wait_s * 1000 + 1):
                if descriptor == said:
                    hearing = _hear(said, words)
                elif feed is not None and descriptor != pidfd:
                    feed.go_on()
    finally:
        if pidfd >= 0:
            os.close(pidfd)
        _kill(pid, signal.SIGKILL)  # all of its session; its number is still its own
    _, status, usage = os.wait4(pid, 0)
    _sweep()
    for _ in range(DRAIN_READS_MAX):
        if not hearing:
            break
        hearing = _hear(said, words, wait=False)
    code = os.waitstatus_to_exitcode(status)
    return Run(
        code if code >= 0 else None,
        -code if code < 0 else None,
        stopped,
        usage.ru_utime + usage.ru_stime,
        words.text(),
    )


def _hear(said: int, words: _Words, *, wait: bool = True) -> bool:
    """Take in what it said; False at the end."""
    try:
        data = os.read(said, READ_SIZE)
    except BlockingIOError:
        return wait
    words.add(data)
    return bool(data)


def _has_ended(pid: int) -> bool:
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is not None


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _pidfd_of(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):  # an old kernel, or none of Linux
        return -1


def _look(limit_s: float, pid: int, wall_s: float, held_s: float) -> tuple[str, float, float]:
    """Whether the session hangs, and how, or else when to look again; and ``held_s`` anew, the
    seconds of the time so far that do not count as sleep: since the kernel does not count
    them, all that came before a look at which a thread was held are."""
    cpu_s, queued_s, held = usage_of_session(pid)
    waited_s = wall_s - cpu_s - queued_s
    if held:
        held_s = waited_s
    slept_s = waited_s - held_s
    if cpu_s >= limit_s:
        return "cpu", 0.0, held_s
    if slept_s >= limit_s:
        return "sleep", 0.0, held_s
    if wall_s >= limit_s * SLOW_TIMES:
        return "slow", 0.0, held_s
    return "", max(limit_s - max(cpu_s, slept_s), LOOK_S_MIN), held_s


def usage_of_session(leader: int) -> tuple[float, float, bool]:
    """CPU seconds that the processes of a session have used, seconds that their threads stood
    in line for a processor, and whether one is :data:`HELD`; zeros where there is no ``/proc``."""
    tick = os.sysconf("SC_CLK_TCK")
    used = queued = 0.0
    held = False
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return 0.0, 0.0, False
    for name in names:
        with suppress(OSError, ValueError, IndexError):  # it may end while it is looked at
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if int(fields[3]) != leader:
                continue
            used += sum(map(int, fields[11:15])) / tick
            for thread in os.listdir(f"/proc/{name}/task"):
                with open(f"/proc/{name}/task/{thread}/stat", "rb") as file:
                    held |= file.read().rpartition(b")")[2].split()[0].decode() in HELD
                with open(f"/proc/{name}/task/{thread}/schedstat", "rb") as file:
                    queued += int(file.read().split()[1]) / 1e9
    return used, queued, held


def _sweep() -> None:
    """End what left the session of the run: without its parent it has become our child."""
    deadline = time.monotonic() + REAP_S
    for _ in range(PIDS_MAX):
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if done:
            continue
        if time.monotonic() > deadline:
            return
        with suppress(OSError, ValueError), open("/proc/thread-self/children", "rb") as file:
            for child in file.read().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        time.sleep(LOOK_S_MIN / 10)
