"""How a process fares, from outside: its CPU time, its memory, and where it is.

Linux only, as QEMU's ``-S`` machines that we start are; every look is a system call or two.
"""

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from os.path import basename
from pathlib import Path
from typing import Final

from loadfuzz.children import spawn

BACKTRACE_DEADLINE_S: Final = 10.0
"""gdb needs under a second for a QEMU without debug information; with all of it, some."""
FRAMES_MAX: Final = 16
"""Frames kept of a stack."""
_STACK_DEPTH: Final = 64
"""Frames that gdb is asked for: a stack from main to a device's callback has some thirty."""
_BETWEEN_S: Final = 0.02
"""Seconds between two looks at a loop."""
_LOOK: Final = "==look=="
_GOES_ON: Final = b"==goes-on=="
_INTERRUPT: Final = signal.SIGUSR2
"""A signal that QEMU has no use for once it has come up."""
_LINES_MAX: Final = 1024
"""Lines of gdb's output that are read; it says something of each thread and library first."""
_FRAME: Final = re.compile(
    r"^#\d+\s+(?:0x[0-9a-f]+ in )?(?P<function>[A-Za-z_][\w:.<>@]*) \(.*?"
    r"(?:\) at (?P<file>[^\s:]+):(?P<line>\d+))?(?:\) from (?P<library>\S+))?\)?$"
)
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class CPUClock:
    """The CPU time of another process, all of its threads.

    Args:
        pid: of a child of ours.
    """

    __slots__ = ("_clock", "_pid")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # As clock_getcpuclockid(3) makes it; Python has it for threads only.
        self._clock: int | None = (~pid << 3) | 2
        try:
            time.clock_gettime(self._clock)
        except OSError:
            self._clock = None  # a sandbox that does not know such clocks

    def now_s(self) -> float:
        """CPU seconds that it has used; 0.0 for one that is gone."""
        if self._clock is not None:
            try:
                return time.clock_gettime(self._clock)
            except OSError:
                return 0.0
        fields = _stat(self._pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def resident_bytes(pid: int) -> int:
    """Memory of a process that is really there; 0 for one that is gone."""
    return _statm(pid, 1)


def address_space_bytes(pid: int) -> int:
    """Address space of a process, whether memory is there or not; 0 for one that is gone."""
    return _statm(pid, 0)


def _statm(pid: int, field: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[field]) * _PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def state_of(pid: int) -> str:
    """One letter: ``R`` runs or wants to, ``S`` sleeps, ``D`` waits for a disk, ``T`` was
    stopped, ``Z`` is dead; ``?`` for one that is gone."""
    fields = _stat(pid)
    return fields[0] if fields else "?"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; its name may have blanks."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
        return text.rpartition(")")[2].split()
    return []


async def backtraces(pid: int, count: int) -> list[tuple[str, ...]]:
    """Named functions on the stack of a process's first thread at ``count`` moments, outermost
    first, each ``file.c:function:line``; of one without debug information ``?:function:0``.

    Fewer or none where there is no gdb, or it may not attach, or takes too long.  The process
    is good for nothing afterwards.
    Cancellation leaves no gdb behind.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        return []
    lines: list[bytes] = []
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, _INTERRUPT)

    def keep(line: bytes) -> None:
        if line == _GOES_ON:
            loop.call_later(_BETWEEN_S, interrupt)
        elif len(lines) < _LINES_MAX:
            lines.append(line)

    # One gdb for all looks, since attaching takes far longer than looking. Between two it lets
    # the process go on, until a signal comes that only it gets to see.
    look = ["-ex", "thread 1", "-ex", f"echo {_LOOK}\\n", "-ex", f"bt {_STACK_DEPTH}"]
    go_on = ["-ex", f"echo {_GOES_ON.decode()}\\n", "-ex", "continue"]
    # -nx: nobody's start-up file. And no debug information from the network.
    argv = [gdb, "-nx", "-batch", "-p", str(pid)]
    argv += ["-ex", f"handle {_INTERRUPT.name} stop print nopass", *look]
    for _ in range(count - 1):
        argv += [*go_on, *look]
    environment = {**os.environ, "DEBUGINFOD_URLS": "", "LC_ALL": "C"}
    with suppress(TimeoutError):
        async with spawn(argv, keep, environment=environment) as child:
            async with asyncio.timeout(BACKTRACE_DEADLINE_S):
                await child.wait()
    return parse_backtraces(b"\n".join(lines).decode("utf-8", "replace"))


def parse_backtraces(text: str) -> list[tuple[str, ...]]:
    """The stacks in gdb's output, of each the frames that have a name, outermost first."""
    stacks: list[list[str]] = []
    within = False
    for line in text.splitlines():
        line = line.strip()
        if line == _LOOK:
            stacks.append([])
            within = True
        elif line.startswith("#0 ") and stacks and stacks[-1]:
            within = False  # gdb shows a frame at other moments too
        if within and (found := _FRAME.match(line)):
            file = basename(found["file"] or found["library"] or "?")
            stacks[-1].append(f"{file}:{found['function']}:{found['line'] or 0}")
    return [tuple(reversed(stack)) for stack in stacks if stack]


def common_calls(stacks: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The calls that were under way at every look, innermost last, at most :data:`FRAMES_MAX`:
    where a loop happens to be at one look is chance, the function that loops is on the stack
    at all of them."""
    common: list[str] = []
    for frames in zip(*stacks, strict=False):
        if len({_function(frame) for frame in frames}) > 1:
            break
        # The line may be another one in the function that loops.
        same = len(set(frames)) == 1
        common.append(frames[0] if same else f"{_function(frames[0])}:0")
    return tuple(common[-FRAMES_MAX:])


def _function(frame: str) -> str:
    return frame.rpartition(":")[0]
