"""Starts the QEMUs of one machine, the quickest way there is.

Most of what starting a small QEMU costs is said in :mod:`.template`; what can be copied is
copied, and where that does not go, or no longer, a process is started.  To whoever uses it
that makes no difference but for the time it takes.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.process import Process, open_output, program_of
from loadfuzz.qemu.ptrace import TraceError
from loadfuzz.qemu.template import Places, Template

COPIES_MAX: Final = 64
"""Copies of one template, which all have its layout of memory: what a wild pointer hits depends
on that, and another template costs as little as one QEMU."""
FAILURES_MAX: Final = 8
"""Templates that could not be made or were ended, before there are no more."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that a QEMU is given by name.

    Attributes:
        path: of it, until the QEMU has come up.
        descriptor: of ours, open for what QEMU does with it.
    """

    path: Path
    descriptor: int


Arguments = Callable[[Sequence[str]], Sequence[str]]
"""Makes a command line's end from names of files."""


class Starter:
    """Starts one QEMU after the other.

    Args:
        spec: the machine.
        arguments: behind all that the machine needs; called with the names of the files that
            :meth:`start` is given.
        files: how many :meth:`start` is given each time.
        file_size: bytes that a file of it may grow to beside the machine's memory.
    """

    __slots__ = (
        "_arguments", "_copied", "_failures", "_file_size", "_files", "_spec", "_template",
        "_trusted",
    )  # fmt: skip

    def __init__(self, spec: MachineSpec, arguments: Arguments, files: int, file_size: int) -> None:
        self._spec = spec
        self._arguments = arguments
        self._file_size = file_size
        self._files = files
        self._trusted = False
        self._copied = 0
        self._failures = 0
        self._template: Template | None = None

    @property
    def copies(self) -> bool:
        """Whether processes are copied."""
        return self._template is not None

    async def prepare(self) -> None:
        """Copy from now on, if that goes; takes as long as starting one.

        To be called from the thread that starts them, and :meth:`end` when no more are wanted.

        Raises:
            UsageError: the binary cannot be run.
        """
        self._trusted = True
        await self._make()

    async def freshen(self) -> None:
        """Have another template after :data:`COPIES_MAX` copies, or when somebody has ended
        the last; for who has the time.  Cancellation leaves what there was.

        Raises:
            UsageError: as :meth:`prepare`.
        """
        worn = self._template is None or self._copied >= COPIES_MAX
        if self._trusted and worn and self._failures < FAILURES_MAX:
            await self._make()

    async def _make(self) -> None:
        spec = self._spec
        program = program_of(spec.binary)

        def command(places: Places) -> list[str]:
            names = [f"/proc/self/fd/{number}" for number in places.files]
            return [program, *spec.argv(places.channel)[1:], *self._arguments(names)]

        try:
            fresh = await Template.start(
                command,
                self._files,
                {**os.environ, **dict(spec.environment)},
                spec.address_space,
                spec.file_size(self._file_size),
            )
        except TraceError:
            self._failures += 1  # without a template each is started from its very beginning
            return
        self._drop()
        self._template = fresh
        self._copied = 0

    def start(self, stderr: Path, files: Sequence[HeldFile]) -> Process:
        """A QEMU that comes up by itself; takes a millisecond or some.

        Args:
            stderr: file for what it prints.
            files: that it is given.

        Raises:
            UsageError, InfraError: as :func:`loadfuzz.qemu.process.start`.
        """
        if self._template is not None:
            try:
                process = self._copy(self._template, stderr, files)
            except TraceError:  # somebody has ended it: without one it goes on, only slower
                self._failures += 1
                self._drop()
            else:
                self._copied += 1
                return process
        more = self._arguments([str(file.path) for file in files])
        return self._spec.start(stderr, more, file_size=self._file_size)

    def _copy(self, template: Template, stderr: Path, files: Sequence[HeldFile]) -> Process:
        try:
            channel, theirs = socket.socketpair()
        except OSError as error:
            raise InfraError(
                f"no channel to a QEMU: {error.strerror}; raise the limit of open files"
            ) from error
        with contextlib.ExitStack() as undo:
            undo.callback(channel.close)
            with theirs:
                try:
                    output = open_output(stderr)
                except OSError as error:
                    raise InfraError(
                        f"cannot write {stderr}: {error.strerror}; make room"
                    ) from error
                undo.callback(os.close, output)
                held = [file.descriptor for file in files]
                child = template.copy(theirs.fileno(), output, held)
            undo.pop_all()
        return Process(child, channel, stderr, output)

    def end(self) -> None:
        """Copy no more and let go of the template; what was started goes on, and more can be.

        For who wants no more of them, and where copies do not come up: a process that is
        started may, or says why not.  Again does nothing.
        """
        self._trusted = False
        self._drop()

    def _drop(self) -> None:
        if self._template is not None:
            self._template.end()
            self._template = None
