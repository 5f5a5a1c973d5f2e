"""Runs a batch whose loader is in a process of its own."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from loadfuzz.abc import BringsScript, RemoteTarget
from loadfuzz.bridge import drive
from loadfuzz.campaign.batch import Batch
from loadfuzz.engines.account import worker_folder
from loadfuzz.engines.failures import suspicion_s
from loadfuzz.engines.judging import Emit, WriteFinding
from loadfuzz.engines.native import NativeEngine
from loadfuzz.engines.remote import RemoteSession
from loadfuzz.errors import UsageError
from loadfuzz.events import MachineryWarning
from loadfuzz.findings import Finding
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, CorruptEntryError, explain, seeds_of

WriteWithFiles: TypeAlias = Callable[[Path, Finding, Mapping[str, bytes]], str | None]
"""Keeps a finding and further files, see :func:`loadfuzz.repro.folder.write_finding`."""

_NO_FILES: Final[Mapping[str, bytes]] = MappingProxyType({})


async def run_remote(
    batch: Batch,
    target: RemoteTarget,
    emit: Emit,
    write: WriteWithFiles,
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
        executor = await stack.enter_async_context(
            target.executor(folder, suspicion_s(batch, target), explain=False, copies=True)
        )
        session = RemoteSession(
            batch, target, executor, stack, _seeds(batch, emit), emit,
            writer_for(target, write, emit), stopped, rng.child("remote"),
        )  # fmt: skip
        reason = await drive(partial(_fuzz, session, rng))
    return session, reason


def _fuzz(session: RemoteSession, rng: Rng) -> str:
    session.begin()
    try:
        return NativeEngine(session, rng).run()
    finally:
        session.end()


def writer_for(target: RemoteTarget, write: WriteWithFiles, emit: Emit) -> WriteFinding:
    """Keeps findings together with what their target adds (:class:`BringsScript`).

    No finding is lost over that: where the files cannot be had or be kept, it is kept without.
    """

    def files_of(finding: Finding) -> Mapping[str, bytes]:
        if not isinstance(target, BringsScript):
            return _NO_FILES
        try:
            return dict(target.script(finding))
        except Exception as error:
            _warn(finding, emit, error)
            return _NO_FILES

    def keep(out: Path, finding: Finding) -> str | None:
        files = files_of(finding)
        if files:
            try:
                return write(out, finding, files)
            except (UsageError, OSError) as error:
                _warn(finding, emit, error)
        return write(out, finding, _NO_FILES)

    return keep


def _warn(finding: Finding, emit: Emit, error: Exception) -> None:
    emit(MachineryWarning(
        f"{finding.signature} is kept without a script: {type(error).__name__}: {error}"
    ))  # fmt: skip


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
