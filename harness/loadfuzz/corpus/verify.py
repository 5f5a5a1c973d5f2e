"""Whether a corpus is what its manifest says: every file, every verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.abc import Target
from loadfuzz.corpus.manifest import Manifest, Row
from loadfuzz.corpus.store import files_of, read_stream
from loadfuzz.errors import UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import Input, digest_of

LOAD_LIMIT_S: Final = 10.0
"""CPU seconds of one load: a real stream of a megabyte takes a tenth of one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something about a corpus that is not as its manifest says.

    Attributes:
        file: which, relative to the corpus.
        message: what is wrong and, where something helps, what to do.
    """

    file: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a loader answered to a stream, as far as a row can expect it."""

    kind: ExitKind
    errno: int
    path: tuple[str, ...]
    text: str


class Judge:
    """A target's loader that says what it makes of streams.

    Hangs and escapes are verdicts too.  One at a time per process, in its main
    thread, or hangs are not noticed.

    Args:
        target: whose loader.

    Raises:
        InfraError: the target cannot be opened.
    """

    def __init__(self, target: Target) -> None:
        self._watchdog = Watchdog(LOAD_LIMIT_S)
        self._executor = InProcessExecutor(target, self._watchdog)

    def __call__(self, stream: bytes) -> Verdict:
        """Load ``stream`` into a loader that is as new."""
        with self._watchdog:
            execution = self._executor.execute(Input(stream), trace=False).execution
        return _verdict(execution)


def _verdict(execution: Execution) -> Verdict:
    refusal, escape = execution.refusal, execution.escape
    if refusal is not None:
        return Verdict(execution.kind, refusal.errno, refusal.path, refusal.text)
    text = f"{escape.type_name}: {escape.message}" if escape is not None else ""
    return Verdict(execution.kind, 0, (), text)


def verify(folder: Path, manifest: Manifest, judge: Judge) -> list[Fault]:
    """Everything about the corpus in ``folder`` that is off, by file.

    Raises:
        UsageError: the folder cannot be listed.
        InfraError: the target has no working loader any more.
    """
    faults: list[Fault] = []
    for row in manifest.rows:
        faults += check_row(folder, row, judge)
    listed = {row.file for row in manifest.rows}
    try:
        extra = [file for file in files_of(folder) if file not in listed]
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be listed: {error.strerror}; check its permissions"
        ) from error
    faults += [
        Fault(file, "is not in the manifest; remove it, or make it part of the corpus")
        for file in extra
    ]
    return sorted(faults, key=lambda fault: fault.file)


def check_row(folder: Path, row: Row, judge: Judge) -> list[Fault]:
    """What is off about one row."""
    try:
        stream = read_stream(folder, row.file)
    except FileNotFoundError:
        return [Fault(row.file, "is missing; make it again with `loadfuzz seeds make`")]
    except OSError as error:
        return [Fault(row.file, f"cannot be read: {error.strerror}; check its permissions")]
    except ValueError as error:
        return [Fault(row.file, f"{error}; replace it")]
    if len(stream) != row.size or digest_of(stream) != row.digest:
        return [Fault(row.file, _damage(row, stream))]
    verdict = judge(stream)
    return [] if fits(row, verdict) else [Fault(row.file, _surprise(row, verdict))]


def fits(row: Row, verdict: Verdict) -> bool:
    """Whether ``verdict`` is what ``row`` expects."""
    if verdict.kind is not row.verdict:
        return False
    return row.verdict is ExitKind.ACCEPTED or (
        verdict.errno == row.errno and verdict.path == row.path
    )


def _damage(row: Row, stream: bytes) -> str:
    if len(stream) != row.size:
        what = f"has {len(stream):,} bytes, its row says {row.size:,}"
    else:
        what = f"has SHA-256 {digest_of(stream)[:16]}…, its row says {row.digest[:16]}…"
    return f"is damaged: {what}; make it again with `loadfuzz seeds make`"


def _surprise(row: Row, verdict: Verdict) -> str:
    expected = str(row.verdict)
    if row.verdict is ExitKind.REJECTED:
        expected += f" with errno {row.errno} at {' / '.join(row.path) or 'no place'}"
    actual = str(verdict.kind)
    if verdict.kind is ExitKind.REJECTED:
        actual += f" with errno {verdict.errno}"
    text = f": {verdict.text}" if verdict.text else ""
    return f"expected to be {expected}, was {actual}{text}"
