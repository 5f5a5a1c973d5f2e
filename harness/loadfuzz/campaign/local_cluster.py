"""A Dask scheduler and its workers on this machine, as processes of ours.

Dask's own ``LocalCluster`` is not used: its workers would be in our process group and end
with a traceback each when Ctrl-C is pressed, before they could send what they have.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from loadfuzz.children import Child, spawn
from loadfuzz.errors import InfraError

START_S: Final = 30.0
"""Time that the scheduler has to write down where it listens."""
_LOOK_S: Final = 0.05
_HOST: Final = "127.0.0.1"


class _Contact(msgspec.Struct):
    """What we want of the scheduler's file."""

    address: str


@asynccontextmanager
async def local_cluster(workers: int) -> AsyncIterator[str]:
    """Run a scheduler and ``workers`` workers of one thread each, on loopback, for the
    duration of a ``with`` block; a worker that dies is replaced.

    Yields:
        The scheduler's address.

    Raises:
        InfraError: they do not start.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadfuzz-dask-")))
        contact = folder / "scheduler.json"
        scheduler = await stack.enter_async_context(spawn(
            [
                sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", _HOST,
                "--port", "0", "--no-dashboard", "--scheduler-file", str(contact),
            ],
            _ignore,
            folder=folder,
        ))  # fmt: skip
        address = await _address(contact, scheduler)
        await stack.enter_async_context(spawn(
            [
                sys.executable, "-m", "distributed.cli.dask_worker", address, "--host", _HOST,
                "--nworkers", str(workers), "--nthreads", "1", "--memory-limit", "0",
                "--no-dashboard", "--local-directory", str(folder),
            ],
            # In our folder: a loader may be named by a path from there.
            _ignore,
        ))  # fmt: skip
        yield address


def _ignore(line: bytes) -> None:
    """They log to stderr."""


async def _address(contact: Path, scheduler: Child) -> str:
    loop = asyncio.get_running_loop()
    until = loop.time() + START_S
    while loop.time() < until:
        try:
            return msgspec.json.decode(contact.read_bytes(), type=_Contact).address
        except (FileNotFoundError, msgspec.DecodeError):
            # Nothing tells when the file is whole; it takes a second or so.
            await asyncio.sleep(_LOOK_S)
    end = await scheduler.stop(0.0)
    raise InfraError(f"Dask's scheduler does not start ({end}): {end.stderr.strip()}")
