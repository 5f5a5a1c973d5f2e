"""A QEMU process that is told what to do over QMP, and always ended.

The process runs without a guest (``-S``), display or default devices, in a
session of its own; leaving the context kills that session, whatever happened
inside.  Nothing listens on a network: QMP runs over a socket pair that QEMU
inherits, so its death is seen at once, and streams use Unix sockets in a
private temporary folder.
"""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qemu.qmp import ExecuteError, QMPClient, QMPError

from loadfuzz.errors import InfraError, UsageError

START_DEADLINE_S: Final = 30.0
"""QEMU answers QMP within half a second here; a loaded CI machine gets more."""
_REAP_DEADLINE_S: Final = 10.0
"""A killed process is gone at once unless the kernel holds it; then we say so."""
_STDERR_MAX: Final = 4096
"""Bytes of QEMU's complaints worth showing."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Which QEMU, as what.

    Attributes:
        binary: path or name of a ``qemu-system-*`` binary.
        machine: machine type, such as ``pc``.
        memory_mb: guest memory; small, since every page is in the stream.
        devices: arguments of ``-device``.
        extra: any further arguments, as they are.
    """

    binary: str
    machine: str
    memory_mb: int = 4
    devices: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

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


class QEMUProcess:
    """A running QEMU; made by :func:`running`.

    Attributes:
        folder: private temporary folder, gone with the process.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, qmp: QMPClient, folder: Path, stderr: Path
    ) -> None:
        self._process = process
        self._qmp = qmp
        self._stderr = stderr
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
        return complaint_of(self._stderr)

    async def wait(self, timeout_s: float) -> int | None:
        """Exit status, or ``None`` if it still runs after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._process.wait()
        return None


def complaint_of(stderr: Path) -> str:
    """The end of a file of error output, on one line."""
    text = stderr.read_bytes()[-_STDERR_MAX:].decode(errors="replace")
    return " / ".join(line for line in text.splitlines() if line.strip()) or "it said nothing"


@contextlib.asynccontextmanager
async def running(spec: MachineSpec) -> AsyncIterator[QEMUProcess]:
    """Start QEMU, wait until it answers, and end it on leaving.

    Cancellation ends the process too.

    Raises:
        UsageError: the binary cannot be run, or ends at once: no QEMU, an
            unknown machine or device; with QEMU's own words.
        InfraError: it does not answer, or cannot be ended.
    """
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        folder = Path(name)
        stderr = folder / "stderr"
        ours, theirs = socket.socketpair()
        with ours, theirs, stderr.open("wb") as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *spec.argv(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                raise UsageError(
                    f"cannot run {spec.binary!r}: {error.strerror or error}; "
                    "name a qemu-system binary with --qemu"
                ) from error
            # Only QEMU may hold its end, or its death would go unnoticed.
            theirs.close()
            qmp = QMPClient("loadfuzz")
            try:
                await _greet(qmp, ours, process, stderr, spec)
                yield QEMUProcess(process, qmp, folder, stderr)
            finally:
                await _end(process)
                await _disconnect(qmp)


async def _greet(
    qmp: QMPClient,
    ours: socket.socket,
    process: asyncio.subprocess.Process,
    stderr: Path,
    spec: MachineSpec,
) -> None:
    """Speak QMP for the first time; tell a refusal from a failure."""
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            await qmp.connect(ours)
    except TimeoutError:
        raise InfraError(
            f"{spec.binary!r} did not speak QMP within {START_DEADLINE_S:.0f} s; "
            f"is it a QEMU? ({complaint_of(stderr)})"
        ) from None
    except QMPError as error:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_DEADLINE_S):
                await process.wait()
        raise UsageError(
            f"{spec.binary!r} ended with status {process.returncode} before it spoke QMP: "
            f"{complaint_of(stderr)}"
        ) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(_REAP_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        raise InfraError(f"QEMU process {process.pid} cannot be killed") from None


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
