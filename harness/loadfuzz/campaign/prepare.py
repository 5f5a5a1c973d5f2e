"""What must run the target's code before a campaign starts, in a process of its own.

``python -m loadfuzz.campaign.prepare REQUEST.json`` imports the target, says
whether Atheris can be imported, writes the target's seeds into the corpus and
tries every seed once.  Whatever the target does to that process (a hang, a
signal, a flood of output) the supervisor goes on, and knows at which seed it
happened.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from loadfuzz import codec
from loadfuzz.campaign.seeding import check_stream
from loadfuzz.channel import Channel
from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.execution import Execution
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.fitting import fit
from loadfuzz.inputs import Input, Seed, digest_of
from loadfuzz.plugins import load_target
from loadfuzz.storage import Corpus, explain

LOAD_TIMEOUT_S: Final = 5.0
"""CPU seconds one seed may take: more than a worker allows, so that a seed is
not refused here that a worker would run."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to prepare.

    Attributes:
        target: its name.
        corpus: folder of the corpus.
        own_seeds: write the target's own seeds there.
        given: name and digest of the seeds that are there already.
        try_atheris: say whether Atheris can be imported.
        skip: names of seeds that were tried before.
    """

    target: str
    corpus: str
    own_seeds: bool
    given: tuple[tuple[str, str], ...]
    try_atheris: bool
    skip: tuple[str, ...] = ()


class _Message(msgspec.Struct, frozen=True, tag_field="message"):
    """Root of what is sent back."""


class AtherisFound(_Message, frozen=True, tag="atheris"):
    """Whether Atheris can be imported; ``problem`` is empty when it can."""

    problem: str


class SeedTried(_Message, frozen=True, tag="seed-tried"):
    """A seed was loaded.

    Attributes:
        name: of the seed.
        problem: empty when it was accepted.
    """

    name: str
    problem: str


class SeedTrying(_Message, frozen=True, tag="seed-trying"):
    """A seed is about to be loaded."""

    name: str


class SeedUnusable(_Message, frozen=True, tag="seed-unusable"):
    """The target made a seed that cannot be used."""

    name: str
    reason: str


class Failed(_Message, frozen=True, tag="failed"):
    """Nothing can be prepared.

    Attributes:
        text: why, and what to do.
        usage: what was asked for makes no sense; otherwise something of ours failed.
    """

    text: str
    usage: bool = False


class TargetFitted(_Message, frozen=True, tag="target-fitted"):
    """The given seeds want a target of their own.

    Attributes:
        spec: see :mod:`loadfuzz.fitting`.
        summary: one line about it.
    """

    spec: str
    summary: str


class Done(_Message, frozen=True, tag="done"):
    """All was tried."""


Message: TypeAlias = (
    AtherisFound | TargetFitted | SeedTried | SeedTrying | SeedUnusable | Failed | Done
)

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def decode_message(line: bytes) -> Message:
    """The message on a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(line)


def _send(channel: Channel, message: Message) -> None:
    channel.send(msgspec.json.encode(message) + b"\n")


def _atheris_problem() -> str:
    try:
        import atheris  # noqa: F401 - whether this works is the question
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def prepare(request: Request, channel: Channel) -> None:
    """Do what the module says.

    Raises:
        LoadfuzzError: the target cannot be imported, or the corpus not written.
    """
    if request.try_atheris:
        _send(channel, AtherisFound(_atheris_problem()))
    target = load_target(request.target)
    corpus = Corpus(Path(request.corpus))
    seeds: dict[str, str] = {}
    if request.own_seeds:
        for seed in target.seeds():
            problem = check_stream(seed.stream, len(seed.stream))
            if problem is not None:
                _send(channel, SeedUnusable(seed.name, problem))
                continue
            try:
                corpus.add(seed.stream)
            except OSError as error:
                raise explain(error, f"writing a seed to {request.corpus}") from error
            seeds[seed.name] = digest_of(seed.stream)
    seeds.update(request.given)
    if request.given:
        fitted = fit(target, _seeds_in(corpus, request.given))
        if fitted is not target:
            target = fitted
            _send(channel, TargetFitted(target.name, target.summary))
    with Watchdog(LOAD_TIMEOUT_S) as watchdog:
        executor = InProcessExecutor(target, watchdog)
        for name, digest in seeds.items():
            if name not in request.skip:
                _send(channel, SeedTrying(name))
                execution = executor.execute(Input(corpus.read(digest)), trace=False).execution
                _send(channel, SeedTried(name, _problem_of(execution)))
    _send(channel, Done())


def _seeds_in(corpus: Corpus, given: tuple[tuple[str, str], ...]) -> list[Seed]:
    """The given seeds, each with its file in the corpus as its origin."""
    return [Seed(name, corpus.read(digest), str(corpus.folder / digest)) for name, digest in given]


def _problem_of(execution: Execution) -> str:
    if execution.refusal is not None:
        return f"refused: {execution.refusal.text}"
    if execution.escape is not None:
        # The worker will judge it as the finding it probably is; here it only gets a name.
        return f"{execution.kind}: {execution.escape.type_name}: {execution.escape.message}"
    return ""


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    channel = Channel()
    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    try:
        prepare(request, channel)
    except LoadfuzzError as error:
        _send(channel, Failed(str(error), isinstance(error, UsageError)))
    except OSError as error:
        _send(channel, Failed(str(explain(error, "preparing the corpus"))))
    except Exception as error:
        text = f"target {request.target!r} failed before the first execution: "
        _send(channel, Failed(f"{text}{type(error).__name__}: {error}; repair the target"))
        raise InfraError(text) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
