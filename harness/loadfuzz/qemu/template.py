"""A program that stands before its first instruction, linked, and is copied instead of started.

A QEMU is linked against fifty libraries and more; for a small machine that is half of what
starting it costs.  So one process, the template, is started, stopped when its dynamic linker
is done (a trap at the program's entry point), and told to fork whenever a QEMU is wanted: the
idea of AFL's fork server, for a binary that nobody instruments.  What it has to do for that
are some system calls, and ptrace(2) has it make them.

A copy is our child (``CLONE_PARENT``), ends when we do, leads a session of its own, and has
its descriptors in the places that the template's command line names.  It is not traced, and
keeps nothing of ours.  What glibc's fork(2) does is done but for what a program that has not
begun does not need (handlers of ``pthread_atfork``, the list of robust mutexes).  Another C
library is told by what it has where glibc keeps the thread's id, and its programs are refused.

All copies have the same layout of memory, and the same canaries on their stacks.  Where this
is not possible (another kind of host, tracing forbidden) a :class:`TraceError` says so, and
processes are started as ever.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from loadfuzz.launching import SHELL, launched
from loadfuzz.qemu.ptrace import (
    BREAK,
    EVENT_EXEC,
    EVENT_FORK,
    EVENT_STOP,
    SYSCALL,
    Stop,
    Tracee,
    TraceError,
    auxiliary,
    supported,
)

LINK_DEADLINE_S: Final = 30.0
"""Linking takes some 20 ms here; a loaded CI machine gets more."""
END_DEADLINE_S: Final = 2.0
"""A killed process is gone at once, unless the kernel holds it."""
_LOOK_MIN_S: Final = 0.0005
_LOOK_MAX_S: Final = 0.01
"""How often to look whether it has got on, growing from the one to the other."""
_WAIT_FOR_US: Final = 'kill -STOP $$; exec "$@"'
"""Shell: stand still, so that nothing is missed, then become the program."""
_AT_ENTRY: Final = 9
_PAGE: Final = 4096

_CLONE: Final = 56
_CLOSE: Final = 3
_DUP2: Final = 33
_MUNMAP: Final = 11
_MMAP: Final = 9
_PRCTL: Final = 157
_RECVMSG: Final = 47
_SETSID: Final = 112
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_TID_ADDRESS: Final = 40
_CLONE_FLAGS: Final = 0x00008000 | 0x00200000 | 0x01000000 | signal.SIGCHLD
"""``CLONE_PARENT | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID``: glibc keeps the thread's id, and
fork(2), which would set it anew, is not what makes the copies."""
_PROT_READ_WRITE: Final = 3
_MAP_PRIVATE_ANONYMOUS: Final = 0x22
_NOWHERE: Final = (1 << 64) - 1

_MSGHDR: Final = struct.Struct("<QQQQQQQ")
_IOVEC: Final = struct.Struct("<QQ")
_CMSGHDR: Final = struct.Struct("<Qii")
"""``struct cmsghdr``; descriptors of four bytes follow."""
_FIRST: Final = 40
"""Lowest number of a copy's descriptors: above what a script that becomes the program may use
itself, below any limit of their number."""
FILES_MAX: Final = 8
"""Files that a copy can be given."""
_RIGHTS_SIZE: Final = 64
"""Room for the header and ten descriptors."""
_IOVEC_AT, _DATA_AT, _RIGHTS_AT, _TID_AT = 64, 96, 128, 256


@dataclass(frozen=True, slots=True)
class Places:
    """The descriptors of every copy, which the template's command line may name.

    Attributes:
        channel: a connected socket.
        output: what is also its standard output and standard error.
        files: a program that wants a name opens ``/proc/self/fd/NUMBER``.
    """

    channel: int
    output: int
    files: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """In the order in which they are given to a copy."""
        return self.channel, self.output, *self.files


class Copy:
    """A copied process, as far as waiting for its end goes.

    Attributes:
        pid: its process id, also of its session.
    """

    __slots__ = ("_returncode", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        if self._returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored, and how it ended is not known
                pid, status = self.pid, 0
            if pid:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode


class Template:
    """A program that can be copied; made by :meth:`start`, ended by :meth:`end`.

    Of the thread that made it alone, and no other may trace it.
    """

    __slots__ = ("_code", "_control", "_page", "_places", "_popen", "_state", "_theirs", "_tid",
                 "_tracee")  # fmt: skip

    def __init__(
        self, popen: subprocess.Popen[bytes], control: socket.socket, theirs: int, places: Places
    ) -> None:
        self._popen = popen
        self._control = control
        self._theirs = theirs
        self._places = places
        self._tracee: Tracee | None = None
        self._page = 0
        self._tid = 0

    @classmethod
    async def start(
        cls,
        command: Callable[[Places], Sequence[str]],
        files: int,
        environment: Mapping[str, str],
        address_space: int | None = None,
        file_size: int | None = None,
    ) -> Self:
        """Start a program and wait until it is linked.

        Cancellation leaves nothing behind.

        Args:
            command: the command line, from the descriptors that copies will have.
            files: of how many they are; up to :data:`FILES_MAX`.
            environment: all of it.
            address_space, file_size: as of :func:`loadfuzz.launching.launched`.

        Raises:
            TraceError: that is not possible here, or the program does not get so far.
        """
        if not supported():
            raise TraceError("processes can be copied on x86-64 Linux only")
        template = cls._launch(command, files, environment, address_space, file_size)
        with contextlib.ExitStack() as undo:
            undo.callback(template.end)
            try:
                async with asyncio.timeout(LINK_DEADLINE_S):
                    await template._link()
            except TimeoutError:
                raise TraceError(f"not linked within {LINK_DEADLINE_S:.0f} s") from None
            undo.pop_all()
        return template

    @classmethod
    def _launch(
        cls,
        command: Callable[[Places], Sequence[str]],
        files: int,
        environment: Mapping[str, str],
        address_space: int | None,
        file_size: int | None,
    ) -> Self:
        """Start it; it is about to stand still before it becomes the program."""
        try:
            control, theirs = socket.socketpair()
        except OSError as error:
            raise TraceError(f"no channel to a template: {error.strerror}") from error
        with theirs:
            assert files <= FILES_MAX
            wanted = range(_FIRST, _FIRST + files + 3)
            free = [number for number in wanted if number != theirs.fileno()]
            places = Places(free[0], free[1], tuple(free[2 : 2 + files]))
            try:
                popen = subprocess.Popen(
                    launched(
                        [SHELL, "-c", _WAIT_FOR_US, "sh", *command(places)],
                        address_space,
                        file_size,
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                control.close()
                raise TraceError(f"cannot start a process: {error.strerror}") from error
            return cls(popen, control, theirs.fileno(), places)

    async def _link(self) -> None:
        """Have it run up to its entry point, and get ready to copy it."""
        tracee = self._tracee = Tracee.seize(self._popen.pid)
        await _become(tracee)
        if not tracee.registers().is_64_bit:
            raise TraceError("only 64-bit programs can be copied")
        entry = auxiliary(tracee.pid, _AT_ENTRY)
        self._code = tracee.write_code(entry, BREAK)
        tracee.go_on()
        while (stop := await _next(tracee)) != Stop(signal.SIGTRAP, 0):
            tracee.go_on(0 if stop.event else stop.signal)
        state = tracee.registers()
        if state.counter != entry + len(BREAK):
            raise TraceError(f"process {tracee.pid} has traps of its own")
        self._state = state.at(entry)
        tracee.write_code(entry, SYSCALL)
        tracee.stop_at_forks()
        self._prepare(tracee)

    def _prepare(self, tracee: Tracee) -> None:
        """Lay out what the calls of its copies need."""
        self._page = page = tracee.call(
            self._state, _MMAP, 0, _PAGE, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, _NOWHERE, 0
        )
        tracee.call(self._state, _PRCTL, _PR_GET_TID_ADDRESS, page + _TID_AT)
        self._tid = int.from_bytes(tracee.read(page + _TID_AT, 8), "little")
        # No address: a static program, which has not come so far.
        if self._tid and int.from_bytes(tracee.read(self._tid, 4), "little") != tracee.pid:
            raise TraceError("only programs of glibc can be copied")
        header = _MSGHDR.pack(0, 0, page + _IOVEC_AT, 1, page + _RIGHTS_AT, _RIGHTS_SIZE, 0)
        tracee.write(page, header)
        tracee.write(page + _IOVEC_AT, _IOVEC.pack(page + _DATA_AT, 1))

    def copy(self, channel: int, output: int, files: Sequence[int]) -> Copy:
        """A process that begins now to do what the template has not begun; takes some tenths
        of a millisecond.

        Args:
            channel, output, files: descriptors of ours that it gets, in its :class:`Places`.

        Raises:
            TraceError: the template is dead or does not do as told.  It has ended then, and
                no copy is left.
        """
        tracee, state = self._tracee, self._state
        assert tracee is not None, "start() has it linked"
        with contextlib.ExitStack() as undo:
            undo.callback(self.end)  # with all that is born and has no session yet
            try:
                socket.send_fds(self._control, [b"\0"], [channel, output, *files])
            except OSError as error:
                raise TraceError(f"process {tracee.pid} takes nothing: {error}") from error
            tracee.begin(state, _CLONE, _CLONE_FLAGS, 0, 0, self._tid, 0)
            stop = tracee.wait()
            if stop != Stop(signal.SIGTRAP, EVENT_FORK):
                raise TraceError(f"process {tracee.pid} does not fork but was stopped by {stop}")
            child = tracee.child()
            child.wait()
            tracee.go_on()
            tracee.returned()
            self._settle(child)
            undo.pop_all()
        return Copy(child.pid)

    def _settle(self, child: Tracee) -> None:
        """Make a copy a process of its own, and let it go."""
        state, page, places = self._state, self._page, self._places
        child.call(state, _RECVMSG, self._theirs, page, 0)
        rights = child.read(page + _RIGHTS_AT, _CMSGHDR.size + 4 * len(places.all))
        if _CMSGHDR.unpack_from(rights)[0] != len(rights):
            raise TraceError(f"process {child.pid} did not get {len(places.all)} descriptors")
        got = struct.unpack_from(f"<{len(places.all)}I", rights, _CMSGHDR.size)
        for number, place in zip(got, places.all, strict=True):
            child.call(state, _DUP2, number, place)
            child.call(state, _CLOSE, number)
        child.call(state, _DUP2, places.output, 1)
        child.call(state, _DUP2, places.output, 2)
        child.call(state, _CLOSE, self._theirs)
        child.call(state, _MUNMAP, page, _PAGE)
        child.call(state, _PRCTL, _PR_SET_PDEATHSIG, signal.SIGKILL)
        child.call(state, _SETSID)
        try:
            child.write_code(state.counter, self._code)
            child.set_registers(state)
            child.detach()
        except TraceError:
            _put_down(child.pid)  # of a group of its own by now
            raise

    def end(self) -> None:
        """End it; its copies go on.  Again does nothing.

        One that the kernel does not let go of within :data:`END_DEADLINE_S` is left to it,
        killed.
        """
        self._control.close()
        if self._popen.returncode is None:
            self._popen.returncode = -signal.SIGKILL
            _put_down(self._popen.pid)


def _put_down(group: int) -> None:
    """Kill what is left of a process group whose members are our children, traced or not, and
    wait for them.  As long as one is not reaped, the group's number is nobody else's."""
    until = time.monotonic() + END_DEADLINE_S
    while time.monotonic() < until:
        try:
            # The ends of all, and the stops that were not seen.
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(_LOOK_MIN_S)


async def _next(tracee: Tracee) -> Stop:
    pause_s = _LOOK_MIN_S
    while (stop := tracee.stopped()) is None:
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LOOK_MAX_S)
    return stop


async def _become(tracee: Tracee) -> None:
    """Have what stands still become the program, and stop there."""
    waited = False
    while True:
        stop = await _next(tracee)
        match stop:
            case Stop(signal.SIGTRAP, event) if event == EVENT_EXEC and waited:
                return
            case Stop(signal.SIGSTOP, event):
                waited = True
                if event == EVENT_STOP:  # it stood still before we looked
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(tracee.pid, signal.SIGCONT)
                tracee.go_on()
            case Stop(number, event):
                tracee.go_on(0 if event else number)
