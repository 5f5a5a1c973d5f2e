"""A campaign from outside: what its folder says, while it runs or after."""

import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path

from loadfuzz.campaign.folder import read_settings
from loadfuzz.campaign.shard import is_store, shards_of
from loadfuzz.errors import LoadfuzzError, UsageError
from loadfuzz.reporters.stats import RUNNING, read_stats
from loadfuzz.repro.folder import finding_folders, read_finding
from loadfuzz.storage import Corpus


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One finding as a list shows it.

    Attributes:
        folder: of the finding, for ``loadfuzz replay``.
        signature, oracle, title, path: as in the finding; "" where it cannot be read.
        error: why it cannot.
    """

    folder: str
    signature: str
    oracle: str
    title: str
    path: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One shard as a list shows it; the names are those of :class:`Status`."""

    name: str
    state: str
    executions: int
    executions_per_second: float
    updated: int


@dataclass(frozen=True, slots=True)
class Status:
    """A campaign.

    Attributes:
        out: its folder.
        target: what it fuzzes.
        state: ``running``; or why it ended: ``budget``, ``interrupted``, ``failed``,
            ``stale``, ``first-finding``; or ``died`` when it did not say.
        pid: of the supervisor that wrote last, 0 if none did.
        executions, seconds, corpus: of all runs of the folder together.
        executions_per_second: now, of a campaign that runs; over all of its time, of another.
        workers, restarts: worker processes, and how many had to be replaced.
        started, updated, last_new, last_finding: seconds since 1970, 0 for never.
        findings: by name of their folders.
        shards: of a folder that shards share; then all else is of them together.
    """

    out: str
    target: str
    state: str
    pid: int
    executions: int
    seconds: int
    executions_per_second: float
    corpus: int
    workers: int
    restarts: int
    started: int
    updated: int
    last_new: int
    last_finding: int
    findings: tuple[FindingLine, ...]
    shards: tuple[ShardLine, ...] = ()


def status_of(out: Path) -> Status:
    """What the folder of a campaign says, or one that shards share.

    Raises:
        UsageError: it is neither, or cannot be read.
    """
    return _status_of_shards(out) if is_store(out) else _status_of_campaign(out)


def _status_of_shards(out: Path) -> Status:
    """All shards together: sums, and the findings that they share."""
    try:
        parts = [_status_of_campaign(path) for path in shards_of(out)]
    except OSError as error:
        raise UsageError(f"{out} cannot be read: {error.strerror}") from error
    if not parts:
        raise UsageError(f"no shard has begun in {out}")
    # The news are in the state of those that run, then of those that went wrong.
    order = (RUNNING, "died", "failed")
    states = sorted(
        (part.state for part in parts),
        key=lambda state: order.index(state) if state in order else len(order),
    )
    running = [part for part in parts if part.state == RUNNING]
    return replace(
        max(parts, key=lambda part: part.updated),
        out=str(out),
        state=states[0],
        executions=sum(part.executions for part in parts),
        seconds=sum(part.seconds for part in parts),
        executions_per_second=sum(part.executions_per_second for part in running),
        corpus=max(part.corpus for part in parts),
        workers=sum(part.workers for part in running or parts),
        restarts=sum(part.restarts for part in parts),
        started=min(part.started for part in parts),
        last_new=max(part.last_new for part in parts),
        last_finding=max(part.last_finding for part in parts),
        findings=tuple(map(_finding, finding_folders(out / "findings"))),
        shards=tuple(
            ShardLine(
                Path(part.out).name, part.state, part.executions, part.executions_per_second,
                part.updated,
            )
            for part in parts
        ),
    )  # fmt: skip


def _status_of_campaign(out: Path) -> Status:
    settings = read_settings(out)
    stats = read_stats(out)

    def number(key: str) -> int:
        text = stats.get(key, "")
        return int(text) if text.isdecimal() else 0

    running = _is_locked(out / "lock")
    state = stats.get("loadfuzz_state", "")
    if running:
        state = RUNNING
    elif state in {"", RUNNING}:
        state = "died"
    rate = stats.get("execs_ps_last_min" if running else "execs_per_sec", "0")
    try:
        names = finding_folders(out / "findings")
        corpus = sum(1 for _ in Corpus(out / "corpus").digests())
    except OSError as error:
        raise UsageError(f"{out} cannot be read: {error.strerror}") from error
    return Status(
        out=str(out),
        target=settings.target,
        state=state,
        pid=number("fuzzer_pid"),
        executions=number("execs_done"),
        seconds=number("run_time"),
        executions_per_second=float(rate) if rate.replace(".", "", 1).isdecimal() else 0.0,
        corpus=corpus,
        workers=settings.workers,
        restarts=number("loadfuzz_restarts"),
        started=number("start_time"),
        updated=number("last_update"),
        last_new=number("last_find"),
        last_finding=number("last_crash"),
        findings=tuple(map(_finding, names)),
    )


def _finding(folder: Path) -> FindingLine:
    try:
        found = read_finding(folder)
    except LoadfuzzError as error:
        return FindingLine(str(folder), "", "", "", "", str(error))
    violation = found.violation
    return FindingLine(
        str(folder), violation.signature, violation.oracle, violation.title, violation.path
    )


def _is_locked(path: Path) -> bool:
    """Whether a campaign holds its lock; does not keep one from starting meanwhile for
    longer than it takes to look."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
