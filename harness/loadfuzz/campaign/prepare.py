"""What must run the target's code before a campaign starts, in a process of its own.

``python -m loadfuzz.campaign.prepare REQUEST.json`` imports the target, says
whether Atheris can be imported, writes the target's seeds into the corpus and
tries every seed once.  Whatever the target does to that process (a hang, a
signal, a flood of output) the supervisor goes on, and knows at which seed it
happened.  A target that can be fitted to the given seeds is: to all at once, and
should that fail to each alone, so that a bad seed is known by name.
"""

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

import msgspec

from loadfuzz import codec
from loadfuzz.abc import RemoteTarget, Target
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.campaign.seeding import check_stream
from loadfuzz.channel import Channel
from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.executors.guard import SubjectError, guarded_call
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.fitting import SEPARATOR, fit, split
from loadfuzz.inputs import Input, Seed, digest_of
from loadfuzz.plugins import load_any_target
from loadfuzz.storage import Corpus, explain, outsiders_of, seeds_of, write_atomic

LOAD_TIMES: Final = 2.5
"""One seed may take so many times what a load may: more than a worker allows, so
that a seed is not refused here that a worker would run."""
MACHINE: Final = "machine"
"""Folder beside the corpus for the stream that the target was fitted to: entries of
the corpus come and go, and every worker needs this one."""


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
        one_by_one: fit the target to each seed alone, since to all it failed.
        load_timeout_s: CPU seconds after which a load counts as a hang.
    """

    target: str
    corpus: str
    own_seeds: bool
    given: tuple[tuple[str, str], ...]
    try_atheris: bool
    skip: tuple[str, ...] = ()
    one_by_one: bool = False
    load_timeout_s: float = LOAD_TIMEOUT_S


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


class RunsRemote(_Message, frozen=True, tag="runs-remote"):
    """The loader has a process of its own, so Atheris cannot see into it."""


class FittingAll(_Message, frozen=True, tag="fitting-all"):
    """The target is about to be fitted to all given seeds."""


class SeedFitting(_Message, frozen=True, tag="seed-fitting"):
    """The target is about to be fitted to one seed alone."""

    name: str


class FittingDone(_Message, frozen=True, tag="fitting-done"):
    """It is known which target suits the seeds."""


class SeedUnfit(_Message, frozen=True, tag="seed-unfit"):
    """The target cannot be fitted to a given seed; it is not tried either."""

    name: str
    reason: str


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
    AtherisFound
    | Done
    | Failed
    | FittingAll
    | FittingDone
    | RunsRemote
    | SeedFitting
    | SeedTried
    | SeedTrying
    | SeedUnfit
    | SeedUnusable
    | TargetFitted
)

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def decode_message(line: bytes) -> Message:
    """The message on a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(line)


class NoLoaderError(InfraError):
    """The program that has the loader cannot be started: no fault of what was typed alone."""


def _own_seeds(target: Target | RemoteTarget) -> Iterable[Seed]:
    try:
        return target.seeds()
    except UsageError as error:
        if isinstance(target, RemoteTarget):
            raise NoLoaderError(str(error)) from error
        raise


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
    target = load_any_target(request.target)
    corpus = Corpus(Path(request.corpus))
    seeds: dict[str, str] = {}
    if request.own_seeds:
        for seed in _own_seeds(target):
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
    try:
        outsiders_of(corpus.folder.parent).add(seeds.values())
    except OSError as error:
        raise explain(error, f"writing beside {request.corpus}") from error
    if isinstance(target, RemoteTarget):
        try:
            asyncio.run(_try_remote(target, seeds, request, channel))
        except UsageError as error:
            raise NoLoaderError(str(error)) from error
        _send(channel, Done())
        return
    with Watchdog(request.load_timeout_s * LOAD_TIMES) as watchdog:
        if request.given:
            given = _seeds_in(corpus, request.given)
            fitted, unfit = _fit(target, given, request, watchdog, channel)
            _send(channel, FittingDone())
            for name in unfit:
                del seeds[name]
            if fitted is not target:
                target = fitted
                spec = _keep_machine(target.name, corpus.folder.parent / MACHINE)
                _send(channel, TargetFitted(spec, target.summary))
        executor = InProcessExecutor(target, watchdog)
        for name, digest in seeds.items():
            if name not in request.skip:
                _send(channel, SeedTrying(name))
                execution = executor.execute(Input(corpus.read(digest)), trace=False).execution
                _send(channel, SeedTried(name, _problem_of(execution)))
    _send(channel, Done())


async def _try_remote(
    target: RemoteTarget, seeds: dict[str, str], request: Request, channel: Channel
) -> None:
    """Load each seed into a loader that has a process of its own."""
    campaign = Path(request.corpus).parent
    _send(channel, RunsRemote())
    try:
        seeds_of(campaign).add(seeds.values())
    except OSError as error:
        raise explain(error, f"writing to {campaign}") from error
    corpus = Corpus(Path(request.corpus))
    with TemporaryDirectory(prefix="loadfuzz-") as folder:
        async with target.executor(Path(folder), request.load_timeout_s) as executor:
            for name, digest in seeds.items():
                if name in request.skip:
                    continue
                _send(channel, SeedTrying(name))
                execution = await executor.execute(corpus.read(digest))
                _send(channel, SeedTried(name, _problem_of(execution)))
                if execution.kind.ends_process:
                    await executor.renew()


def _fit(
    target: Target, seeds: list[Seed], request: Request, watchdog: Watchdog, channel: Channel
) -> tuple[Target, list[str]]:
    """The target that suits the seeds, and the names of those it cannot be fitted to."""
    if not request.one_by_one:
        _send(channel, FittingAll())
        try:
            return guarded_call("fitting", lambda: fit(target, seeds), watchdog), []
        except SubjectError:
            pass  # which seed it is, shows below
    chosen, unfit = target, []
    for seed in seeds:
        _send(channel, SeedFitting(seed.name))
        try:
            fitted = guarded_call("fitting", partial(fit, target, [seed]), watchdog)
        except SubjectError as error:
            unfit.append(seed.name)
            text = "takes too long" if error.kind is ExitKind.TIMED_OUT else str(error)
            _send(channel, SeedUnfit(seed.name, text))
            continue
        if chosen is target:
            chosen = fitted
    return chosen, unfit


def _keep_machine(spec: str, folder: Path) -> str:
    """Copy the stream that a target was fitted to; returns the specification with it."""
    name, file = split(spec)
    if not file:
        return spec
    try:
        stream = Path(file).read_bytes()
        folder.mkdir(exist_ok=True)
        place = folder / digest_of(stream)
        write_atomic(place, stream)
    except OSError as error:
        raise explain(error, f"writing to {folder}") from error
    return f"{name}{SEPARATOR}{place}"


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
