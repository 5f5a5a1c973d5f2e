"""Runs streams that came from elsewhere, and says which of them show something new.

``python -m loadfuzz.campaign.admit REQUEST.json`` runs all of the corpus first and says of
each what it showed; then it takes one question a line on stdin, and answers it on stdout.
A process of its own, since a stream may do to it whatever it likes.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadfuzz import codec
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.channel import Channel
from loadfuzz.engines.schedule import SMALLER
from loadfuzz.errors import LoadfuzzError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.exitcodes import ExitCode
from loadfuzz.feedback.novelty import Features, Novelty
from loadfuzz.inputs import Input
from loadfuzz.plugins import load_target
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
        digest: of the stream; "" in the answer that says that the process is ready.
        size: of the stream, in bytes; 0 when it is not there any more.
        features: as numbers that this process has given them.
        names: of the features, the same in every process.
        behaviour: name of all of them together, too.
        worth: it shows something new, or the same as another and is much smaller.
        accepted: the target took it.
        problem: the process cannot go on.
    """

    digest: str
    size: int = 0
    features: Features = ()
    names: tuple[str, ...] = ()
    behaviour: str = ""
    worth: bool = False
    accepted: bool = False
    problem: str = ""


def much_smaller(size: int, than: int) -> bool:
    """Whether a stream should take the place of another with the same behaviour."""
    part, whole = SMALLER
    return size * whole <= than * part


class _Judge:
    """Knows what was seen."""

    def __init__(self, executor: InProcessExecutor) -> None:
        self._executor = executor
        self._novelty = Novelty()
        self._sizes: dict[Features, int] = {}

    def look(self, digest: str, stream: bytes) -> Answer:
        seen = self._novelty.observe(self._executor.execute(Input(stream)).execution)
        size = self._sizes.get(seen.features)
        smaller = size is None or much_smaller(len(stream), size)
        if smaller:
            self._sizes[seen.features] = len(stream)
        return Answer(
            digest, len(stream), seen.features, self._novelty.names(seen.features),
            self._novelty.behaviour(seen.features),
            seen.new or (size is not None and smaller), seen.accepted,
        )  # fmt: skip


def answers(request: Request, questions: Iterator[bytes]) -> Iterator[Answer]:
    """What the first streams show, an empty answer, and one answer to each question.

    Raises:
        LoadfuzzError: the target cannot be had.
        OSError: a stream cannot be read.
    """
    corpus, incoming = Corpus(Path(request.corpus)), Corpus(Path(request.incoming))
    with Watchdog(request.load_timeout_s) as watchdog:
        judge = _Judge(InProcessExecutor(load_target(request.target), watchdog))
        for digest in request.first:
            try:
                yield judge.look(digest, corpus.read(digest))
            except (FileNotFoundError, CorruptEntryError):
                yield Answer(digest)  # another shard has taken it out
        yield Answer("")
        for line in questions:
            digest = msgspec.json.decode(line, type=Question).digest
            yield judge.look(digest, incoming.read(digest))


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()
    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    try:
        for answer in answers(request, iter(sys.stdin.buffer.readline, b"")):
            channel.send(msgspec.json.encode(answer) + b"\n")
    except (LoadfuzzError, OSError) as error:
        channel.send(msgspec.json.encode(Answer("", problem=str(error))) + b"\n")
        return ExitCode.MACHINERY
    return ExitCode.CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
