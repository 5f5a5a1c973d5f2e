"""Just enough of ptrace(2) to have another process make system calls: Linux on x86-64.

A tracee is seized, so that its stops are told apart (``PTRACE_SEIZE``), and is killed by the
kernel when we end.  Only the thread that seized it may speak to it.  Waiting for a stop spins
with short sleeps and has a deadline, since a plain ``waitpid`` has none.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

_CONT: Final = 7
_GETREGS: Final = 12
_SETREGS: Final = 13
_POKEDATA: Final = 5
_DETACH: Final = 17
_GETEVENTMSG: Final = 0x4201
_SEIZE: Final = 0x4206
_SETOPTIONS: Final = 0x4200
_EXITKILL: Final = 0x100000
_TRACEFORK: Final = 0x2
_TRACEEXEC: Final = 0x10
_WALL: Final = 0x40000000
"""``__WALL``: wait for children of any kind."""
EVENT_FORK: Final = 1
EVENT_EXEC: Final = 4
EVENT_STOP: Final = 128
"""Stopped by a signal to the whole process, or just born."""

SYSCALL: Final = b"\x0f\x05\xcc"
"""``syscall``, and behind it the trap that stops the tracee when the call has been made."""
BREAK: Final = b"\xcc"
STOP_DEADLINE_S: Final = 5.0
"""For one system call, which takes microseconds."""
_PAUSE_S: Final = 0.00002
"""Between two looks whether it has stopped: a call takes less, and a turn of the scheduler more."""
_LONG_MODE: Final = 0x33
"""Code segment of a 64-bit program."""
_NAMES: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip
"""Of ``struct user_regs_struct`` in <sys/user.h>."""
_RAX, _ORIG_RAX, _RIP, _CS = (_NAMES.index(name) for name in ("rax", "orig_rax", "rip", "cs"))
_ARGUMENTS: Final = tuple(_NAMES.index(name) for name in ("rdi", "rsi", "rdx", "r10", "r8", "r9"))
_ERRNO_MAX: Final = 4095

_Registers = ctypes.c_ulonglong * len(_NAMES)


class TraceError(Exception):
    """A process cannot be traced, or does not do what it is told."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a tracee stands still.

    Attributes:
        signal: that it got, ``SIGTRAP`` for our own traps.
        event: one of the ``EVENT_`` numbers, 0 for none.
    """

    signal: int
    event: int


def supported() -> bool:
    """Whether this module knows the machine it runs on."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32


class Tracee:
    """A process of ours that stands still whenever we speak to it.

    Args:
        pid: of a child that is traced by us already; see :meth:`seize`.
    """

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @classmethod
    def seize(cls, pid: int) -> "Tracee":
        """Begin to trace a child, which goes on running; it stops where it becomes a program
        (:data:`EVENT_EXEC`).

        Raises:
            TraceError: it is gone, or the kernel or a sandbox forbids it.
        """
        _ptrace(_SEIZE, pid, 0, _EXITKILL | _TRACEEXEC)
        return cls(pid)

    def stopped(self) -> Stop | None:
        """The stop that it is in, ``None`` while it runs.  Tells of each stop once.

        Raises:
            TraceError: it has ended, and is reaped.
        """
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
        except ChildProcessError as error:
            raise TraceError(f"process {self.pid} is no child of ours") from error
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            raise TraceError(f"process {self.pid} ended")
        return Stop(os.WSTOPSIG(status), status >> 16)

    def wait(self) -> Stop:
        """The next stop, which is about to come.

        Raises:
            TraceError: it ended instead, or goes on running.
        """
        until = time.monotonic() + STOP_DEADLINE_S
        while (stop := self.stopped()) is None:
            if time.monotonic() > until:
                raise TraceError(f"process {self.pid} does not stop")
            time.sleep(_PAUSE_S)
        return stop

    def go_on(self, number: int = 0) -> None:
        """Have it run, getting signal ``number`` if that is not 0.

        Raises:
            TraceError: it is gone.
        """
        _ptrace(_CONT, self.pid, 0, number)

    def stop_at_forks(self) -> None:
        """Have it stop where it forks (:data:`EVENT_FORK`), its child be traced, and no longer stop
        at programs.

        Raises:
            TraceError: it is gone.
        """
        _ptrace(_SETOPTIONS, self.pid, 0, _EXITKILL | _TRACEFORK)

    def detach(self) -> None:
        """Have it run, and leave it alone from now on.

        Raises:
            TraceError: it is gone.
        """
        _ptrace(_DETACH, self.pid, 0, 0)

    def registers(self) -> "State":
        """What its registers hold.

        Raises:
            TraceError: it is gone.
        """
        values = _Registers()
        _ptrace(_GETREGS, self.pid, 0, ctypes.addressof(values))
        return State(tuple(values))

    def set_registers(self, state: "State") -> None:
        """Put values in its registers.

        Raises:
            TraceError: it is gone.
        """
        values = _Registers(*state.values)
        _ptrace(_SETREGS, self.pid, 0, ctypes.addressof(values))

    def write_code(self, address: int, code: bytes) -> bytes:
        """Put ``code``, at most 8 bytes, where it may not write itself; returns the 8 that were
        there.

        Raises:
            TraceError: nothing is there.
        """
        old = self.read(address, 8)
        _ptrace(_POKEDATA, self.pid, address, int.from_bytes(code + old[len(code) :], "little"))
        return old

    def read(self, address: int, size: int) -> bytes:
        """Bytes of its memory.

        Raises:
            TraceError: nothing is there.
        """
        return self._access(lambda memory: os.pread(memory, size, address), size)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes in its memory, where it may write itself.

        Raises:
            TraceError: nothing is there.
        """

        def put(memory: int) -> bytes:
            return data[: os.pwrite(memory, data, address)]

        self._access(put, len(data))

    def _access(self, access: Callable[[int], bytes], size: int) -> bytes:
        try:
            memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
            try:
                data = access(memory)
            finally:
                os.close(memory)
        except OSError as error:
            raise TraceError(f"no access to process {self.pid}: {error.strerror}") from error
        if len(data) != size:
            raise TraceError(f"no access to process {self.pid}: {len(data)} of {size} bytes")
        return data

    def begin(self, state: "State", number: int, *arguments: int) -> None:
        """Have it begin a system call.

        Args:
            state: its registers, with the program counter at :data:`SYSCALL`.
            number: of the call.
            arguments: at most 6.

        Raises:
            TraceError: it is gone.
        """
        self.set_registers(state.calling(number, arguments))
        self.go_on()

    def call(self, state: "State", number: int, *arguments: int) -> int:
        """Have it make a system call; as :meth:`begin`, and what it returned.

        Raises:
            TraceError: the call failed, or something else stopped it.
        """
        self.begin(state, number, *arguments)
        return self.returned()

    def returned(self) -> int:
        """What the call returned that has begun.

        Raises:
            TraceError: as :meth:`call`.
        """
        stop = self.wait()
        if stop != Stop(signal.SIGTRAP, 0):
            raise TraceError(f"process {self.pid} was stopped by {stop}")
        result = ctypes.c_longlong(self.registers().values[_RAX]).value
        if -_ERRNO_MAX <= result < 0:
            raise TraceError(f"a call of process {self.pid} failed: {os.strerror(-result)}")
        return result

    def child(self) -> "Tracee":
        """The process that it has just forked (:data:`EVENT_FORK`), which is about to stop.

        Raises:
            TraceError: there is none.
        """
        value = ctypes.c_ulong()
        _ptrace(_GETEVENTMSG, self.pid, 0, ctypes.addressof(value))
        return Tracee(value.value)


@dataclass(frozen=True, slots=True)
class State:
    """What the registers of a tracee hold.

    Attributes:
        values: in the order of ``struct user_regs_struct``.
    """

    values: tuple[int, ...]

    @property
    def counter(self) -> int:
        """The program counter."""
        return self.values[_RIP]

    @property
    def is_64_bit(self) -> bool:
        """Whether it runs code that this module knows."""
        return self.values[_CS] == _LONG_MODE

    def at(self, counter: int) -> "State":
        """The same elsewhere in the program."""
        return self._with({_RIP: counter})

    def calling(self, number: int, arguments: tuple[int, ...]) -> "State":
        """The same, about to make a system call."""
        given = dict(zip(_ARGUMENTS, arguments, strict=False))
        # Not a call that was interrupted: the kernel would begin it again.
        return self._with({_RAX: number, _ORIG_RAX: (1 << 64) - 1, **given})

    def _with(self, changed: dict[int, int]) -> "State":
        return State(tuple(changed.get(place, old) for place, old in enumerate(self.values)))


def auxiliary(pid: int, kind: int) -> int:
    """An entry of the auxiliary vector that the kernel gave a program (<elf.h>).

    Raises:
        TraceError: there is none.
    """
    try:
        with open(f"/proc/{pid}/auxv", "rb") as file:
            vector = file.read(1 << 12)
    except OSError as error:
        raise TraceError(f"process {pid} cannot be looked at: {error.strerror}") from error
    for key, value in struct.iter_unpack("<QQ", vector[: len(vector) // 16 * 16]):
        if key == kind:
            return int(value)
    raise TraceError(f"process {pid} has no auxiliary entry {kind}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc().ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        name = errno.errorcode.get(number, str(number))
        raise TraceError(f"tracing process {pid} is not possible: {os.strerror(number)} ({name})")
