"""Loads streams with a command that is started anew for each.

Theory of operation.  Everything that is done per stream is done by a small process of its own
(:mod:`loadfuzz.executors.starter`), which lives as long as the executor: we write the stream
into a file, tell it to start the command, and hear how that ended.  What that means is
decided by :func:`loadfuzz.executors.command_verdict.verdict_of`.

A sanitizer is set up by its environment: what it finds ends the program with a report that
tells the place, a leak at the end is no finding (a program that ends gives nothing back, and
looking for leaks takes longer than a load), and a stuck program that is aborted says where it
is.  What the user has in ``ASAN_OPTIONS`` and its like comes after ours, and so wins.
"""

import asyncio
import mmap
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from loadfuzz import codec, launch
from loadfuzz.children import Child, spawn
from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution
from loadfuzz.executors.attending import REAP_S, REPORT_S, SLOW_TIMES, Run
from loadfuzz.executors.command_spec import CommandSpec
from loadfuzz.executors.command_verdict import verdict_of
from loadfuzz.executors.starter import Order

__all__ = ["CommandExecutor", "CommandSpec"]

SOCKET_PATH_MAX: Final = 100
"""Bytes of a socket's path: Linux takes 107."""
SPARE_S: Final = 10.0
"""How much longer than its longest run may the starter take to answer, on a busy machine."""
CHECK_S: Final = 1.0
"""How often to look whether a starter that says nothing still lives."""
ENDED_S: Final = 0.1
"""How long that look may take."""

_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from loadfuzz.executors.starter import main; sys.exit(main(sys.argv[2]))"
)
_MARKS: Final = (b"__asan_init", b"__msan_init", b"__tsan_init", b"__hwasan_init")
"""A program that calls one of these has a sanitizer with a shadow of all addresses."""


class CommandExecutor:
    """A command as a loader (:class:`loadfuzz.abc.Executor`); made by :meth:`open`."""

    def __init__(self, spec: CommandSpec, order: Order) -> None:
        self._spec = spec
        self._order = order
        self._stack = AsyncExitStack()
        self._child: Child | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._runs = 0

    @property
    def generation(self) -> int:
        """How many processes have been started: each load has one of its own."""
        return self._runs

    @classmethod
    @asynccontextmanager
    async def open(
        cls, spec: CommandSpec, folder: Path, load_timeout_s: float
    ) -> "AsyncIterator[CommandExecutor]":
        """One for the duration of an ``async with`` block; no process is left behind.

        Args:
            spec: the command.
            folder: for the file with the stream; best on a file system in memory.
            load_timeout_s: CPU seconds, or seconds of sleep, after which a load hangs.

        Raises:
            UsageError: there is no such program.
            InfraError: no process can be started.
        """
        async with AsyncExitStack() as stack:
            stream, socket = folder / "input.stream", ""
            if spec.wants_socket:
                socket = str(folder / "loader.sock")
                if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
                    short = stack.enter_context(tempfile.TemporaryDirectory(prefix="loadfuzz-"))
                    socket = str(Path(short, "loader.sock"))
            argv = spec.argv(str(stream), socket)
            shadowed = has_shadow(Path(argv[0]))
            order = Order(
                argv=argv,
                environment=environment_of(spec),
                stream=str(stream),
                feeds=spec.wants_stdin,
                socket=socket,
                limit_s=load_timeout_s,
                memory_bytes=0 if shadowed else spec.memory_bytes,
            )
            executor = cls(spec, order)
            stack.push_async_callback(executor._stop)
            await executor._start()
            yield executor

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """Start the command with ``stream``; see :meth:`loadfuzz.abc.Executor.execute`.

        Cancellation leaves the load to end within its limits, or to :meth:`renew`.

        Args:
            stream: all of its bytes.
            closely: makes no difference: there is nothing closer to look at.

        Raises:
            UsageError: its limit of memory leaves no room for its sanitizer.
            InfraError: nothing can be said about the stream, or the command cannot be run any
                more.
        """
        child = self._child
        if child is None or self._answer is not None:
            raise InfraError("a loader whose last load did not end must be renewed first")
        try:
            Path(self._order.stream).write_bytes(stream)
        except OSError as error:
            raise InfraError(
                f"cannot write {self._order.stream}: {error.strerror}; make room there"
            ) from error
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._runs += 1
        child.send(b"run\n")
        line = await self._answered(child, answer)
        self._answer = None
        try:
            run = codec.decode(line, Run)
        except codec.DamagedError as error:
            raise InfraError(
                f"the starter of {self._spec.command!r} talks nonsense: {error}"
            ) from error
        return verdict_of(self._spec, run)

    async def renew(self) -> None:
        """Nothing, as every load has a process of its own; unless the last one did not end.

        Raises:
            InfraError: no process can be started any more.
        """
        if self._child is None or self._answer is not None:
            await self._stop()
            await self._start()

    async def _answered(self, child: Child, answer: "asyncio.Future[bytes]") -> bytes:
        """What the starter says to the order."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._order.limit_s * SLOW_TIMES + REPORT_S + 2 * REAP_S + SPARE_S
        while loop.time() < deadline:
            done, _ = await asyncio.wait([answer], timeout=CHECK_S)
            if done:
                return answer.result()
            try:
                async with asyncio.timeout(ENDED_S):
                    ended = await child.wait()
            except TimeoutError:
                continue
            raise InfraError(
                f"the process that starts {self._spec.command!r} is gone ({ended}): "
                f"{ended.stderr.strip()[-300:] or 'it said nothing'}; was it killed from outside?"
            )
        raise InfraError(
            f"{self._spec.command!r} does not die; it hangs in the kernel, probably on a dead disk"
        )

    async def _start(self) -> None:
        root = str(Path(launch.__file__).resolve().parents[1])
        order = codec.encode(self._order).decode()
        self._child = await self._stack.enter_async_context(
            spawn(
                [sys.executable, "-I", "-S", "-c", _BOOT, root, order],
                self._hear,
                feed=True,
            )
        )
        self._answer = None

    async def _stop(self) -> None:
        self._child = None
        self._answer = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    def _hear(self, line: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(line)


def has_shadow(program: Path) -> bool:
    """Whether a program has a sanitizer that reserves terabytes of addresses, which no limit
    of address space allows.  A script's answer is no: it is what its interpreter is."""
    try:
        with program.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return any(data.find(mark) >= 0 for mark in _MARKS)
    except (OSError, ValueError):  # it cannot be read, or is empty: to run it will tell
        return False


def environment_of(spec: CommandSpec) -> dict[str, str]:
    """What the command's environment has on top of ours: what the user says, and sanitizers
    set up."""
    theirs = {**os.environ, **spec.environment}
    megabytes = spec.memory_bytes >> 20
    limits = [f"hard_rss_limit_mb={megabytes}"] if megabytes else []
    largest = [f"max_allocation_size_mb={megabytes}"] if megabytes else []
    common = ["color=never", "handle_abort=1", "allocator_may_return_null=0", *limits, *largest]
    settings = {
        "ASAN_OPTIONS": ["detect_leaks=0", *common],
        "MSAN_OPTIONS": common,
        "TSAN_OPTIONS": ["color=never"],
        "UBSAN_OPTIONS": ["color=never", "print_stacktrace=1"],
    }
    ours = {
        name: ":".join([*words, *([theirs[name]] if theirs.get(name) else [])])
        for name, words in settings.items()
    }
    # A loader in Python then says where it was when a signal ended it.
    return {"PYTHONFAULTHANDLER": "1", **spec.environment, **ours}
