"""Runs a batch whose loader is in a process of its own."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from loadfuzz.abc import RemoteTarget
from loadfuzz.campaign.batch import Batch
from loadfuzz.engines.account import worker_folder
from loadfuzz.engines.bridge import drive
from loadfuzz.engines.judging import Emit, WriteFinding
from loadfuzz.engines.native import NativeEngine
from loadfuzz.engines.remote import RemoteSession
from loadfuzz.events import MachineryWarning
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, CorruptEntryError, explain, seeds_of


async def run_remote(
    batch: Batch,
    target: RemoteTarget,
    emit: Emit,
    write: WriteFinding,
    stopped: Callable[[], bool],
) -> tuple[RemoteSession, str]:
    """Fuzz until the budget is used up; no process of the loader is left.

    Args:
        batch: what is to be done; the corpus in its folder has the seeds.
        target: what is fuzzed.
        emit: hears of everything but the worker's end.
        write: keeps a finding.
        stopped: somebody wants the worker to end.

    Returns:
        The session, for its numbers, and why it ended.

    Raises:
        UsageError: the loader cannot be started so.
        InfraError: the corpus cannot be used, or there is no working loader any more.
    """
    folder = worker_folder(batch) / "loader"
    folder.mkdir(exist_ok=True)
    rng = Rng(batch.seed)
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(target.executor(folder, batch.load_timeout_s))
        session = RemoteSession(
            batch, target, executor, stack, _seeds(batch, emit), emit, write, stopped,
            rng.child("remote"),
        )  # fmt: skip
        reason = await drive(partial(_fuzz, session, rng))
    return session, reason


def _fuzz(session: RemoteSession, rng: Rng) -> str:
    session.begin()
    return NativeEngine(session, rng).run()


def _seeds(batch: Batch, emit: Emit) -> list[bytes]:
    """Streams that are known to be seeds, all of the corpus where nobody has said."""
    out = Path(batch.out)
    corpus = Corpus(out / "corpus")
    streams: list[bytes] = []
    try:
        digests = seeds_of(out).read() or frozenset(corpus.digests())
        for digest in sorted(digests):
            try:
                streams.append(corpus.read(digest))
            except FileNotFoundError:
                continue  # distilled away, or in quarantine
            except CorruptEntryError as error:
                emit(MachineryWarning(str(error)))
    except OSError as error:
        raise explain(error, f"reading the corpus {corpus.folder}") from error
    return streams
