"""The campaign's side of :mod:`loadfuzz.campaign.admit`: nothing that a worker sends is
believed before it was run here.
"""

import asyncio
import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from loadfuzz import codec
from loadfuzz.campaign.admit import Answer, Question, Request
from loadfuzz.children import Child, spawn
from loadfuzz.errors import InfraError
from loadfuzz.inputs import digest_of
from loadfuzz.storage import Corpus, write_atomic

ANSWER_MAX_S: Final = 30.0
"""Longest time for one stream; a load has some seconds of CPU."""
START_MAX_S: Final = 60.0
"""Longest time until the target is imported and its loader there, on a busy machine."""
DEATHS_MAX: Final = 100
"""Streams that may end the process; each of them is a finding that its worker has sent too,
and more than so many tell no more."""
INCOMING: Final = "incoming"
"""Folder for streams that were not run here yet."""
_REQUEST: Final = "admit.json"


class Admission:
    """Says which streams are worth keeping; an async context manager for one use.

    Args:
        target: its specification.
        campaign: the campaign's folder.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        known: hears what each stream of the corpus shows, once and after each death.
        command: starts the process; the request's path is appended.

    Attributes:
        slot: what the target wants of a cluster's workers
            (:attr:`loadfuzz.abc.NeedsSlots.slot`), "" when nothing; known once entered.
    """

    def __init__(
        self,
        target: str,
        campaign: Path,
        load_timeout_s: float,
        known: Callable[[Answer], None],
        command: Sequence[str] = (sys.executable, "-m", "loadfuzz.campaign.admit"),
    ) -> None:
        self._campaign = campaign
        self._incoming = campaign / INCOMING
        self._request = Request(
            target, str(campaign / "corpus"), str(self._incoming), load_timeout_s
        )
        self._known = known
        self._command = command
        self._stack = AsyncExitStack()
        self._watches = asyncio.TaskGroup()
        self._process = AsyncExitStack()
        self._child: Child | None = None
        self._heard: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._deaths = 0
        self._deadly: set[str] = set()
        self.slot = ""

    async def __aenter__(self) -> "Admission":
        """Start the process and have it run the corpus.

        Raises:
            ExceptionGroup: with an InfraError, when it cannot.
            OSError: the folder cannot be written.
        """
        async with AsyncExitStack() as stack:
            self._incoming.mkdir(exist_ok=True)
            stack.callback(self._clean_up)
            await stack.enter_async_context(self._watches)
            await stack.enter_async_context(self._process)
            await self._start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        await self._stack.aclose()

    def _clean_up(self) -> None:
        (self._campaign / _REQUEST).unlink(missing_ok=True)
        shutil.rmtree(self._incoming, ignore_errors=True)

    @property
    def given_up(self) -> bool:
        """So many streams have ended the process that no more are run."""
        return self._deaths > DEATHS_MAX

    async def admit(self, stream: bytes) -> Answer | None:
        """What a stream shows here; ``None`` when it ends the process or keeps it busy.

        A stream that is worth it is in the corpus afterwards.

        Raises:
            InfraError: the process cannot go on.
            OSError: the disk is full, for example.
        """
        async with self._turn:
            if self.given_up:
                return None
            digest = digest_of(stream)
            Corpus(self._incoming).add(stream)
            try:
                answer = await self._ask(digest)
                if answer is not None and answer.worth:
                    (self._incoming / digest).rename(self._campaign / "corpus" / digest)
                return answer
            finally:
                (self._incoming / digest).unlink(missing_ok=True)

    async def _ask(self, digest: str) -> Answer | None:
        question = msgspec.json.encode(Question(digest)) + b"\n"
        try:
            if self._child is None:
                await self._start()
            assert self._child is not None, "started above"
            self._child.send(question)
        except InfraError:
            # It has died since the last answer, which is not this stream's fault.
            await self._forget_child()
            await self._start()
            assert self._child is not None, "started above"
            self._child.send(question)
        answer = await self._answer(ANSWER_MAX_S)
        if answer is not None and answer.digest != digest:
            raise InfraError(f"asked about {digest}, and {answer.digest} was answered")
        if answer is None:
            self._deaths += 1
            await self._forget_child()
        return answer

    async def _forget_child(self) -> None:
        self._child = None
        await self._process.aclose()

    async def _start(self) -> None:
        """Start the process and have it run the corpus, but for what ends it."""
        first = tuple(Corpus(self._campaign / "corpus").digests())
        self._request = dataclasses.replace(
            self._request, first=tuple(digest for digest in first if digest not in self._deadly)
        )
        while not await self._prime():
            if len(self._deadly) > DEATHS_MAX:
                raise InfraError(
                    f"more than {DEATHS_MAX} streams of the corpus end the process that runs them"
                )

    async def _prime(self) -> bool:
        """One try; when it fails, the next one leaves out what it failed at."""
        path = self._campaign / _REQUEST
        write_atomic(path, codec.encode(self._request), durable=False)
        waiting = list(reversed(self._request.first))
        self._heard = asyncio.Queue()
        spawned = spawn([*self._command, str(path)], self._hear, feed=True)
        self._child = await self._process.enter_async_context(spawned)
        self._watches.create_task(self._watch(self._child, self._heard))
        begun = await self._answer(START_MAX_S)
        if begun is None:
            raise InfraError(
                "the process that runs what workers send did not get its loader started; see "
                "whether the target works here with 'loadfuzz run'"
            )
        self.slot = begun.slot
        while (answer := await self._answer(ANSWER_MAX_S)) is not None:
            if not answer.digest:
                return True
            if not waiting or waiting.pop() != answer.digest:
                raise InfraError(f"{answer.digest} was answered, and not asked about")
            if answer.size:
                self._known(answer)
        await self._forget_child()
        if not waiting:
            raise InfraError("the process that runs what workers send ended before it was asked")
        # Workers are to meet it all the same: it is a finding.
        deadly = waiting[-1]
        self._deadly.add(deadly)
        with suppress(FileNotFoundError):
            size = (self._campaign / "corpus" / deadly).stat().st_size
            self._known(Answer(deadly, size))
        self._request = dataclasses.replace(
            self._request, first=tuple(name for name in self._request.first if name != deadly)
        )
        return False

    async def _watch(self, child: Child, heard: asyncio.Queue[Answer | None]) -> None:
        await child.wait()
        heard.put_nowait(None)

    async def _answer(self, patience_s: float) -> Answer | None:
        """The next answer, ``None`` when there will be none."""
        try:
            async with asyncio.timeout(patience_s):
                answer = await self._heard.get()
        except TimeoutError:
            return None
        if answer is not None and answer.problem:
            raise InfraError(f"what workers send cannot be run: {answer.problem}")
        return answer

    def _hear(self, line: bytes) -> None:
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError as error:
            answer = Answer("", problem=f"{line[:80]!r} is no answer ({error})")
        self._heard.put_nowait(answer)
