"""A stream given to a real QEMU over ``-incoming``: the judge of what we write.

One fresh process per stream, with a true end of file behind it, started when it is needed:
slow and certain.  The pool in :mod:`.incoming_pool` is the executor of a campaign, made for
many streams that may kill QEMU, and for what a verdict tells of a bug.  This is for tests and
tools that ask whether a QEMU takes what we wrote, in its own words, and what it then saves
again; a QEMU that hangs is no finding here.
"""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.qemu.capture import save_stream
from loadfuzz.qemu.machine import MachineSpec, QEMUProcess, check_socket_name, running

INCOMING_DEADLINE_S: Final = 60.0
_EXIT_GRACE_S: Final = 10.0
"""A QEMU that refused its stream reports it and then exits by itself."""


@dataclass(frozen=True, slots=True)
class IncomingVerdict:
    """What QEMU made of a stream.

    Attributes:
        accepted: the migration completed.
        message: QEMU's own words when it did not.
        returncode: exit status when it ended by itself; negative for a signal.
        saved: the machine's state saved again after an accepted load, if asked.
    """

    accepted: bool
    message: str = ""
    returncode: int | None = None
    saved: bytes = b""


async def deliver(spec: MachineSpec, stream: bytes, *, save_again: bool = False) -> IncomingVerdict:
    """Load ``stream`` into a fresh QEMU and say what it answered.

    Cancellation ends QEMU and leaves nothing behind.

    Raises:
        UsageError: QEMU cannot be started so.
        InfraError: it hung.
    """
    listening = replace(spec, extra=(*spec.extra, "-incoming", "defer"))
    async with running(listening) as qemu:
        path = qemu.folder / "incoming"
        check_socket_name(qemu.folder, [path.name])
        try:
            async with asyncio.timeout(INCOMING_DEADLINE_S):
                verdict = await _load(qemu, path, stream)
                if verdict.accepted and save_again:
                    return replace(verdict, saved=await save_stream(qemu))
                return verdict
        except TimeoutError:
            raise InfraError(f"QEMU gave no verdict within {INCOMING_DEADLINE_S:.0f} s") from None


async def _load(qemu: QEMUProcess, path: Path, stream: bytes) -> IncomingVerdict:
    await qemu.execute("migrate-incoming", uri=f"unix:{path}")
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(stream)
        await writer.drain()
        writer.write_eof()
        return await _verdict(qemu)
    except (ConnectionError, BrokenPipeError):
        return await _verdict(qemu)  # it refused before it had read everything
    finally:
        writer.close()
        del reader


async def _verdict(qemu: QEMUProcess) -> IncomingVerdict:
    pause_s = 0.002
    while True:
        try:
            answer = await qemu.execute("query-migrate")
        except (InfraError, UsageError):
            returncode = await qemu.wait(_EXIT_GRACE_S)
            return IncomingVerdict(False, qemu.complaint(), returncode)
        match answer:
            case {"status": "completed"}:
                return IncomingVerdict(True)
            case {"status": "failed"}:
                returncode = await qemu.wait(_EXIT_GRACE_S)
                return IncomingVerdict(False, qemu.complaint(), returncode)
            case _:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.1)
