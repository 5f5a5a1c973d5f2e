"""Many streams into few: one store of all, or the smallest of each behaviour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadfuzz.abc import Target
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.feedback.novelty import Novelty
from loadfuzz.inputs import Input, digest_of
from loadfuzz.storage import Corpus

Told = Callable[[int, int], None]
"""Hears how many streams are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of it.

    Attributes:
        streams: that were read.
        kept: of them, those that are in the store now and were not before.
        known: that were in the store, or were read before.
        bytes_kept: size of what was kept.
        failed: streams whose load ended in no verdict, by path; they are not kept.
    """

    streams: int
    kept: int
    known: int
    bytes_kept: int
    failed: tuple[str, ...] = ()


def open_store(folder: Path) -> Corpus:
    """A folder in which each stream is named by its digest; made if need be.

    Raises:
        UsageError: it cannot be made, or holds other files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = Corpus(folder)
        known = set(store.digests())
        strange = next((path.name for path in folder.iterdir() if path.name not in known), None)
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}; name a new folder") from error
    if strange is not None:
        raise UsageError(
            f"{folder} has other files in it ({strange}) than streams named by their digests; "
            "name a new or empty folder"
        )
    return store


def merge(paths: Sequence[Path], store: Corpus) -> Merged:
    """Put every stream into ``store``, each content once.

    Raises:
        OSError: one cannot be read or written; those before it are there.
    """
    kept = size = 0
    for path in paths:
        stream = path.read_bytes()
        if store.add(stream) is not None:
            kept += 1
            size += len(stream)
    return Merged(len(paths), kept, len(paths) - kept, size)


def distill(
    target: Target, paths: Sequence[Path], store: Corpus, load_timeout_s: float, told: Told
) -> Merged:
    """Put into ``store`` the smallest stream for everything that they show together.

    Shortest first, a stream is kept if it shows what none before it did: an event, an order
    of devices, a depth, a verdict (:class:`~loadfuzz.feedback.novelty.Novelty`).  What is in
    the store already counts as shown.

    Args:
        target: whose loader is watched.
        paths: the streams.
        store: where they go.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        told: hears of progress.

    Raises:
        InfraError: the target has no working loader.
        OSError: a stream cannot be read or written; those before it are there.
    """
    novelty = Novelty()
    seen: set[str] = set()
    kept = known = size = 0
    failed: list[str] = []
    with Watchdog(load_timeout_s) as watchdog:
        executor = InProcessExecutor(target, watchdog)
        for digest in store.digests():
            novelty.observe(executor.execute(Input(store.read(digest))).execution)
            seen.add(digest)
        ordered = sorted(paths, key=lambda path: (path.stat().st_size, path))
        for done, path in enumerate(ordered, 1):
            stream = path.read_bytes()
            digest = digest_of(stream)
            if digest in seen:
                known += 1
            else:
                seen.add(digest)
                execution = executor.execute(Input(stream)).execution
                if execution.kind not in (ExitKind.ACCEPTED, ExitKind.REJECTED):
                    failed.append(str(path))
                elif novelty.observe(execution).new:
                    store.add(stream)
                    kept += 1
                    size += len(stream)
            told(done, len(ordered))
    return Merged(len(ordered), kept, known, size, tuple(failed))
