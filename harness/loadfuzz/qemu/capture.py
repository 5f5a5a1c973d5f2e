"""A seed stream from a real QEMU: ``migrate`` to a Unix socket of ours."""

import asyncio
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.machine import MachineSpec, QEMUProcess, check_socket_name, running

CAPTURE_DEADLINE_S: Final = 120.0
"""A stopped machine of some MiB is out in a second; a slow one gets time."""
CAPTURE_MAX: Final = 1 << 30
"""Bytes taken from QEMU: a machine with more memory is no seed."""
_CHUNK: Final = 1 << 18
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})


async def capture(spec: MachineSpec) -> bytes:
    """Start the machine, stopped, and take its migration stream.

    Cancellation ends QEMU and leaves nothing behind.

    Raises:
        UsageError: QEMU cannot be started so, or its machine cannot be saved.
        InfraError: QEMU died, hung, or sent more than :data:`CAPTURE_MAX`.
    """
    async with running(spec) as qemu:
        return await save_stream(qemu)


async def save_stream(qemu: QEMUProcess) -> bytes:
    """The migration stream of a running QEMU, which is then in postmigrate.

    Raises:
        UsageError, InfraError: as :func:`capture`.
    """
    check_socket_name(qemu.folder, ["stream"])
    try:
        async with asyncio.timeout(CAPTURE_DEADLINE_S):
            return await _migrate(qemu, qemu.folder / "stream")
    except TimeoutError:
        raise InfraError(f"QEMU did not finish saving within {CAPTURE_DEADLINE_S:.0f} s") from None


async def version_of(qemu: QEMUProcess) -> str:
    """QEMU's version as it gives it, such as ``7.2.22``."""
    answer = await qemu.execute("query-version")
    match answer:
        case {"qemu": {"major": major, "minor": minor, "micro": micro}}:
            return f"{major}.{minor}.{micro}"
        case _:
            raise InfraError(f"query-version answered {str(answer)[:80]}")


async def _migrate(qemu: QEMUProcess, socket: Path) -> bytes:
    received = bytearray()
    finished = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                received.extend(chunk)
                if len(received) > CAPTURE_MAX:
                    break
        finally:
            writer.close()
            finished.set()

    server = await asyncio.start_unix_server(take, str(socket))
    async with server:
        await qemu.execute("migrate", uri=f"unix:{socket}")
        status = await _migration_end(qemu)
        if status != "completed":
            raise UsageError(f"QEMU cannot save this machine: {status}")
        await finished.wait()
    if len(received) > CAPTURE_MAX:
        raise InfraError(f"the stream is longer than {CAPTURE_MAX >> 20} MiB; use less memory")
    return bytes(received)


async def _migration_end(qemu: QEMUProcess) -> str:
    """Wait until the migration has ended, and say how."""
    pause_s = 0.005
    while True:
        answer = await qemu.execute("query-migrate")
        match answer:
            case {"status": str(status), "error-desc": str(why)} if status in _ENDED:
                return f"{status}: {why}"
            case {"status": str(status)} if status in _ENDED:
                return status
            case _:
                # QEMU 7.2 sends no event unless a capability is set; a pause that
                # grows to a quarter second costs nothing.
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.25)
