"""Sees for itself what a stream does to a loader that has a process of its own.

Theory of operation.  Such a loader may remember what it was given, so a stream could be
blamed for what another one has done.  Whoever is refused, or ends the process, after others
were loaded is therefore looked at again: where a stream that was accepted before is refused
now, too, or the process is gone, in a fresh process and alone.  When our machinery fails,
that says nothing about the stream; it is tried once more, and then left alone.
"""

import asyncio
from contextlib import suppress
from typing import Final

from loadfuzz.abc import Executor, RemoteTarget
from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution, ExitKind

LOOK_MAX_S: Final = 20.0
"""Longest time for one stream with all second looks; a load has some seconds of CPU."""
RENEW_MAX_S: Final = 8.0
"""Longest time to have a fresh process behind a stream; starting one takes about one."""
TRIES_MAX: Final = 2
"""Times that our machinery may fail over one stream."""
TROUBLES_MAX: Final = 20
"""Streams in a row about which nothing can be said, before the loader is given up."""


class NothingSeenError(Exception):
    """Nothing can be said about a stream; the text says why."""


class Witness:
    """Looks at streams, one after the other.

    Args:
        target: what they are for.
        executor: its loader, which nobody else uses.
    """

    def __init__(self, target: RemoteTarget, executor: Executor) -> None:
        self._target = target
        self._executor = executor
        self._generation = executor.generation
        self._loads = 0
        self._usable = True
        self._good: bytes | None = None
        self._troubles = 0

    async def look(self, stream: bytes) -> Execution:
        """How a load of ``stream`` ends, looked at closely, in a process that no other stream
        has harmed.

        Raises:
            NothingSeenError: our machinery failed.
            InfraError: it does all the time.
            UsageError: the loader cannot be started any more.
        """
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                execution = await self._try(stream)
        except TimeoutError:
            trouble = f"it took more than {LOOK_MAX_S:.0f} s"
        except InfraError as error:
            trouble = str(error)
        else:
            await self._get_ready()
            self._troubles = 0
            return execution
        await self._get_ready()
        self._troubles += 1
        if self._troubles >= TROUBLES_MAX:
            raise InfraError(
                f"{TROUBLES_MAX} streams in a row could not be run by {self._target.name}, the "
                f"last: {trouble}; see whether it works here with 'loadfuzz run'"
            )
        raise NothingSeenError(trouble)

    async def _get_ready(self) -> None:
        """Have a process that can be used, if need be: one that hangs is not to go on."""
        if not self._usable:
            with suppress(InfraError, TimeoutError):  # then the next stream is told
                async with asyncio.timeout(RENEW_MAX_S):
                    await self._renew()

    async def _try(self, stream: bytes) -> Execution:
        for _ in range(TRIES_MAX - 1):
            with suppress(InfraError):
                return await self._look(stream)
        return await self._look(stream)

    async def _look(self, stream: bytes) -> Execution:
        execution = await self._load(stream, closely=True)
        alone = self._loads == 1 or not self._target.stateful
        if execution.kind is ExitKind.ACCEPTED:
            if self._good is None:
                self._good = stream
            return execution
        if alone or (self._usable and await self._is_well()):
            return execution
        await self._renew()
        return await self._load(stream, closely=True)

    async def _is_well(self) -> bool:
        """Whether the present process still takes what it took before."""
        if self._good is None:
            return True
        return (await self._load(self._good)).kind is ExitKind.ACCEPTED

    async def _load(self, stream: bytes, *, closely: bool = False) -> Execution:
        if not self._usable:
            await self._renew()
        self._usable = False  # until it has an end
        execution = await self._executor.execute(stream, closely=closely)
        self._usable = not execution.kind.ends_process
        if self._executor.generation != self._generation:
            # It may take a fresh process by itself.
            self._generation = self._executor.generation
            self._loads = 0
        self._loads += 1
        return execution

    async def _renew(self) -> None:
        self._usable = False
        await self._executor.renew()
        self._usable = True
        self._generation = self._executor.generation
        self._loads = 0
