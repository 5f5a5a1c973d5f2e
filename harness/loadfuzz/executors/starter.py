"""The process that starts a loader's command again and again.

A step of its own, because starting a command anew takes a fork, and what is to happen
between fork and ``exec`` (limits, a session, the tie to our life) takes Python code: in a
process as large as ours that is slow, and with threads in it unsafe.  This one is small,
has one thread, and imports the standard library only: a start takes it a millisecond or
two, where :func:`loadfuzz.children.spawn` takes twenty.

It is told once, as JSON, what to run (:class:`Order`); each line on its stdin then is one
run, answered by one line of JSON (:class:`~loadfuzz.executors.attending.Run`).  Nothing of
the command survives its run: it leads a session that is killed, what left the session is
inherited and killed, and the kernel kills the command with this process, and this process
with ours.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Final

from loadfuzz.executors.attending import READ_SIZE, Feed, Run, attend
from loadfuzz.launch import die_with_parent

CPU_SPARE_S: Final = 2
"""The kernel's own limit stands so far behind ours: it is for what we do not see in time."""
PR_SET_CHILD_SUBREAPER: Final = 36
"""From Linux's <sys/prctl.h>: what loses its parent becomes ours."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and within what limits.

    Attributes:
        argv: the command.
        environment: on top of ours.
        stream: path of the file with the stream.
        feeds: it has that file as its stdin; otherwise that is empty.
        socket: path of a socket from which it may read the stream, "" for none.
        limit_s: CPU seconds, and seconds of sleep, after which a load hangs.
        memory_bytes: of address space, 0 for no limit.
    """

    argv: list[str]
    environment: dict[str, str]
    stream: str
    feeds: bool
    socket: str
    limit_s: float
    memory_bytes: int


def main(order_json: str) -> int:
    """Serve runs until stdin ends."""
    order = Order(**json.loads(order_json))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin.buffer:
        if line.strip():
            sys.stdout.write(json.dumps(asdict(run(order))) + "\n")
            sys.stdout.flush()
    return 0


def run(order: Order) -> Run:
    """Run the command once, to its end, ours or its own."""
    feed = Feed(order.socket, order.stream) if order.socket else None
    said, hears = os.pipe()
    try:
        try:
            pid, failed = _start(order, hears)
        finally:
            os.close(hears)
        if failed:
            os.waitpid(pid, 0)
            return Run(failed=failed)
        return attend(pid, said, feed, order.limit_s)
    finally:
        os.close(said)
        if feed is not None:
            feed.close()


def _start(order: Order, hears: int) -> tuple[int, str]:
    """Fork and become the command: its process id, and why that failed or ""."""
    trouble, tells = os.pipe()  # closed by exec, so that its end means success
    parent = os.getpid()
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _become(order, hears, tells, parent)
        finally:
            os.close(tells)
        return pid, os.read(trouble, READ_SIZE).decode("utf-8", "replace")
    finally:
        os.close(trouble)


def _become(order: Order, hears: int, tells: int, parent: int) -> None:
    """In the child: set everything up and exec; never returns."""
    try:
        os.setsid()
        if not die_with_parent(parent):
            os._exit(1)
        stdin = os.open(order.stream if order.feeds else os.devnull, os.O_RDONLY)
        stdout = os.open(os.devnull, os.O_WRONLY)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(hears, 2)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, a command does not
            signal.signal(number, signal.SIG_DFL)
        # A fuzzer crashes loaders by the thousand; their core files would fill the disk.
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, int(order.limit_s) + 1 + CPU_SPARE_S)
        if order.memory_bytes:
            _limit(resource.RLIMIT_AS, order.memory_bytes)
        os.execve(order.argv[0], order.argv, {**os.environ, **order.environment})
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        os.write(tells, reason.encode("utf-8", "replace") or b"unknown")
    finally:
        os._exit(127)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
