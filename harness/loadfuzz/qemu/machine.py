"""A QEMU process that is told what to do over QMP, and always ended.

The process runs without a guest (``-S``), display or default devices; leaving the
context kills it, whatever happened inside, and the kernel does when we die.  Nothing
listens on a network: QMP runs over a socket pair that QEMU inherits, so its death is
seen at once, and streams use Unix sockets in a private temporary folder.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qemu.qmp import ExecuteError, QMPClient, QMPError

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.brief import BriefFolder, sweep
from loadfuzz.qemu.process import REAP_DEADLINE_S, Process, complaint_of, start

__all__ = ["MachineSpec", "QEMUProcess", "check_socket_name", "complaint_of", "running"]

START_DEADLINE_S: Final = 30.0
"""QEMU answers QMP within half a second here; a loaded CI machine gets more."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Which QEMU, as what.

    Attributes:
        binary: path or name of a ``qemu-system-*`` binary.
        machine: machine type, such as ``pc``.
        memory_mb: guest memory; small, since every page is in the stream.
        devices: arguments of ``-device``.
        extra: any further arguments, as they are.
        environment: variables that QEMU gets beside our own, such as ``MALLOC_PERTURB_``.
        address_space_mb: limit of its address space (``RLIMIT_AS``), so that a length in a
            stream cannot take all memory; ``None`` for no limit.
    """

    binary: str
    machine: str
    memory_mb: int = 4
    devices: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    address_space_mb: int | None = None

    def argv(self, qmp_fd: int) -> list[str]:
        """The command line, with QMP on the connected socket ``qmp_fd``."""
        argv = [self.binary, "-machine", self.machine]
        # Machine "none" has no memory and refuses to be given some.
        argv += [] if self.machine == "none" else ["-m", f"{self.memory_mb}"]
        argv += ["-S", "-nodefaults", "-display", "none"]
        argv += ["-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]
        for device in self.devices:
            argv += ["-device", device]
        return [*argv, *self.extra]

    def start(
        self, stderr: Path, more: Sequence[str] = (), *, file_size: int | None = None
    ) -> Process:
        """Start it without waiting for its greeting.

        Args:
            stderr: file for what it prints.
            more: arguments behind all others.
            file_size: bytes that a file of it may grow to beside the machine's memory, which
                may be one; ``None`` for any number.

        Raises:
            UsageError, InfraError: as :func:`loadfuzz.qemu.process.start`.
        """
        ours, theirs = socket.socketpair()
        return start(
            [*self.argv(theirs.fileno()), *more], ours, theirs, stderr,
            environment=self.environment,
            address_space=self.address_space,
            file_size=self.file_size(file_size),
        )  # fmt: skip

    @property
    def address_space(self) -> int | None:
        """Bytes of address space that it may have, ``None`` for any number."""
        return None if self.address_space_mb is None else self.address_space_mb << 20

    def file_size(self, room: int | None) -> int | None:
        """Bytes that a file of it may grow to that is to have ``room`` beside the memory."""
        return None if room is None else room + (self.memory_mb << 20)


class QEMUProcess:
    """A running QEMU; made by :func:`running`.

    Attributes:
        folder: private temporary folder, gone with the process.
    """

    def __init__(self, process: Process, qmp: QMPClient, folder: Path) -> None:
        self._process = process
        self._qmp = qmp
        self.folder = folder

    async def execute(self, command: str, timeout_s: float = 30.0, **arguments: object) -> object:
        """Run a QMP command.

        Raises:
            UsageError: QEMU refuses it, in its own words.
            InfraError: QEMU died or does not answer in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._qmp.execute(command, arguments)
        except ExecuteError as error:
            raise UsageError(f"QEMU refuses {command}: {error}") from error
        except TimeoutError:
            raise InfraError(f"QEMU did not answer {command} within {timeout_s:.0f} s") from None
        except QMPError as error:
            raise InfraError(f"QEMU went away during {command}: {self.complaint()}") from error

    def complaint(self) -> str:
        """What QEMU printed last, for error messages."""
        return complaint_of(self._process.stderr)

    async def wait(self, timeout_s: float) -> int | None:
        """Exit status, or ``None`` if it still runs after ``timeout_s``."""
        return await self._process.wait(timeout_s)


@contextlib.asynccontextmanager
async def running(spec: MachineSpec) -> AsyncIterator[QEMUProcess]:
    """Start QEMU, wait until it answers, and end it on leaving.

    Cancellation ends the process too.

    Raises:
        UsageError: the binary cannot be run, or ends at once: no QEMU, an
            unknown machine or device; with QEMU's own words.
        InfraError: it does not answer, or cannot be ended.
    """
    # Whoever is killed in here leaves a folder that the next one removes.
    base = Path(tempfile.gettempdir())
    sweep(base)
    brief = BriefFolder(base)
    try:
        folder = brief.path
        process = spec.start(folder / "stderr")
        qmp = QMPClient("loadfuzz")
        try:
            await _greet(qmp, process, spec)
            yield QEMUProcess(process, qmp, folder)
        finally:
            try:
                await process.end()
            finally:
                await _disconnect(qmp)
                process.channel.close()
    finally:
        brief.remove()


async def _greet(qmp: QMPClient, process: Process, spec: MachineSpec) -> None:
    """Speak QMP for the first time; tell a refusal from a failure."""
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            await qmp.connect(process.channel)
    except TimeoutError:
        raise InfraError(
            f"{spec.binary!r} did not speak QMP within {START_DEADLINE_S:.0f} s; "
            f"is it a QEMU? ({complaint_of(process.stderr)})"
        ) from None
    except QMPError as error:
        code = await process.wait(REAP_DEADLINE_S)
        raise UsageError(
            f"{spec.binary!r} ended with status {code} before it spoke QMP: "
            f"{complaint_of(process.stderr)}"
        ) from error


async def _disconnect(qmp: QMPClient) -> None:
    # The peer was just killed: whatever its connection says now is no news.
    with contextlib.suppress(QMPError, OSError, EOFError, asyncio.IncompleteReadError):
        await qmp.disconnect()


def check_socket_name(folder: Path, names: Sequence[str]) -> None:
    """Refuse folders whose socket paths the kernel would cut.

    Raises:
        UsageError: a path is longer than a Unix socket's name may be.
    """
    for name in names:
        if len(os.fsencode(folder / name)) > 107:
            raise UsageError(
                f"the temporary folder {folder} has too long a name for a Unix socket; "
                "set TMPDIR to a shorter one"
            )
