"""Runs streams that came from elsewhere, and says which of them show something new.

``python -m loadfuzz.campaign.admit REQUEST.json`` runs all of the corpus first and says of
each what it showed; then it takes one question a line on stdin, and answers it on stdout.
A process of its own, since a stream may do to it whatever it likes.  A loader that has another
process (:class:`loadfuzz.abc.RemoteTarget`) is looked at closely, as workers do with what they
keep, so that the same stream has the same features there and here.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from loadfuzz import codec
from loadfuzz.abc import NeedsSlots, RemoteTarget
from loadfuzz.bridge import drive, wait
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.campaign.witness import NothingSeenError, Witness
from loadfuzz.channel import Channel
from loadfuzz.engines.schedule import SMALLER
from loadfuzz.errors import LoadfuzzError
from loadfuzz.execution import Execution
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.exitcodes import ExitCode
from loadfuzz.feedback.novelty import Features, Novelty
from loadfuzz.inputs import Input
from loadfuzz.plugins import load_any_target
from loadfuzz.storage import Corpus, CorruptEntryError


@dataclass(frozen=True, slots=True)
class Request:
    """What to answer questions about.

    Attributes:
        target: its name.
        corpus: folder of the corpus.
        incoming: folder of the streams that are asked about, each named by its digest.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        first: digests of streams of the corpus that are run before any question.
    """

    target: str
    corpus: str
    incoming: str
    load_timeout_s: float = LOAD_TIMEOUT_S
    first: tuple[str, ...] = ()


class Question(msgspec.Struct, frozen=True):
    """Does this stream show something new?"""

    digest: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stream showed.

    Attributes:
        digest: of the stream; "" in the first answer, when the loader is there, and in the one
            behind those to the first streams, when questions can be asked.
        size: of the stream, in bytes; 0 when it is not there any more.
        features: as numbers that this process has given them.
        names: of the features, the same in every process.
        behaviour: name of all of them together, too.
        worth: it shows something new, or the same as another and is much smaller.
        accepted: the target took it.
        slot: what the target wants of a cluster's workers (:class:`loadfuzz.abc.NeedsSlots`), ""
            when it wants nothing; in the first answer.
        trouble: why nothing can be said about the stream, "" when something can; that is
            nobody's fault, and showed nothing.
        problem: the process cannot go on.
    """

    digest: str
    size: int = 0
    features: Features = ()
    names: tuple[str, ...] = ()
    behaviour: str = ""
    worth: bool = False
    accepted: bool = False
    slot: str = ""
    trouble: str = ""
    problem: str = ""


def much_smaller(size: int, than: int) -> bool:
    """Whether a stream should take the place of another with the same behaviour."""
    part, whole = SMALLER
    return size * whole <= than * part


class _Judge:
    """Knows what was seen.

    Args:
        run: loads a stream; may raise :class:`NothingSeenError`.
    """

    def __init__(self, run: Callable[[bytes], Execution]) -> None:
        self._run = run
        self._novelty = Novelty()
        self._sizes: dict[Features, int] = {}

    def look(self, digest: str, stream: bytes) -> Answer:
        try:
            execution = self._run(stream)
        except NothingSeenError as error:
            return Answer(digest, len(stream), trouble=str(error))
        seen = self._novelty.observe(execution)
        size = self._sizes.get(seen.features)
        smaller = size is None or much_smaller(len(stream), size)
        if smaller:
            self._sizes[seen.features] = len(stream)
        return Answer(
            digest, len(stream), seen.features, self._novelty.names(seen.features),
            self._novelty.behaviour(seen.features),
            seen.new or (size is not None and smaller), seen.accepted,
        )  # fmt: skip


def answers(
    request: Request, questions: Iterator[bytes], run: Callable[[bytes], Execution]
) -> Iterator[Answer]:
    """What the first streams show, an empty answer, and one answer to each question.

    Args:
        request: what it is about.
        questions: each a line.
        run: loads a stream.

    Raises:
        LoadfuzzError: the target cannot be had any more.
        OSError: a stream cannot be read.
    """
    corpus, incoming = Corpus(Path(request.corpus)), Corpus(Path(request.incoming))
    judge = _Judge(run)
    for digest in request.first:
        try:
            yield judge.look(digest, corpus.read(digest))
        except (FileNotFoundError, CorruptEntryError):
            yield Answer(digest)  # another shard has taken it out
    yield Answer("")
    for line in questions:
        digest = msgspec.json.decode(line, type=Question).digest
        yield judge.look(digest, incoming.read(digest))


def serve(request: Request, questions: Iterator[bytes], send: Callable[[Answer], None]) -> None:
    """Answer all questions.

    Args:
        request: what they are about.
        questions: each a line; waiting for one blocks.
        send: takes the answers; the first when the loader is there.

    Raises:
        LoadfuzzError: the target cannot be had.
        OSError: a stream cannot be read.
    """
    target = load_any_target(request.target)
    first = Answer("", slot=target.slot if isinstance(target, NeedsSlots) else "")

    def go_on(run: Callable[[bytes], Execution]) -> None:
        send(first)
        for answer in answers(request, questions, run):
            send(answer)

    if isinstance(target, RemoteTarget):
        asyncio.run(_with_witness(target, request, go_on))
    else:
        with Watchdog(request.load_timeout_s) as watchdog:
            go_on(partial(_execute, InProcessExecutor(target, watchdog)))


def _execute(executor: InProcessExecutor, stream: bytes) -> Execution:
    return executor.execute(Input(stream)).execution


async def _with_witness(
    target: RemoteTarget, request: Request, go_on: Callable[[Callable[[bytes], Execution]], None]
) -> None:
    """Go on with a loader that has a process of its own."""
    # Who asks removes that folder, also when we are killed.
    with TemporaryDirectory(
        prefix="loader-", dir=request.incoming, ignore_cleanup_errors=True
    ) as folder:
        # Workers do not explain hangs either before they keep a stream.
        executing = target.executor(Path(folder), request.load_timeout_s, explain=False)
        async with executing as executor:
            witness = Witness(target, executor)
            await drive(partial(go_on, lambda stream: wait(witness.look(stream))))


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()

    def send(answer: Answer) -> None:
        channel.send(msgspec.json.encode(answer) + b"\n")

    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    try:
        serve(request, iter(sys.stdin.buffer.readline, b""), send)
    except (LoadfuzzError, OSError) as error:
        send(Answer("", problem=str(error)))
        return ExitCode.MACHINERY
    return ExitCode.CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
