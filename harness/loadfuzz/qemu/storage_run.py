"""All faults of :mod:`.storage_faults` on one machine: rows, hazards, findings."""

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadfuzz.clock import Clock, SystemClock
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Input
from loadfuzz.qemu.blkdebug import FailingStorage
from loadfuzz.qemu.brief import BriefFolder
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.confirming import confirm, news
from loadfuzz.qemu.instance import place_for
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.peers import peers
from loadfuzz.qemu.storage_faults import StorageFault, table
from loadfuzz.qemu.storage_oracle import StorageAttempt, execution_of, hazards_of, judge
from loadfuzz.repro.folder import write_finding
from loadfuzz.storage import explain

FINDINGS_MAX: Final = 256
"""Findings of different signatures that are kept: more than there are events."""
IMAGES: Final = 4
"""States that have room: two images, each with two; what a save adds is less."""
OVERHEAD_SIZE: Final = 1 << 20
"""Bytes of an image beside its states: tables of 64 KiB each."""


@dataclass(frozen=True, slots=True)
class StorageRow:
    """An operation while storage failed, in words.

    Attributes:
        fault: as :class:`StorageFault` is written.
        answer: QEMU's words, "" for success.
        state: run state of the guest afterwards.
        hazards: known ones that showed.
        violations: signatures of the promises that were broken.
    """

    fault: str
    answer: str
    state: str
    hazards: tuple[str, ...]
    violations: tuple[str, ...]


@dataclass(slots=True)
class StorageTally:
    """What was run until now.

    Attributes:
        rows: of each operation.
        findings: of each signature the first, with the folder it was written to ("" for none).
        skipped: why nothing could be said about an operation.
        tell: hears of each row.
    """

    rows: list[StorageRow] = field(default_factory=list)
    findings: dict[str, tuple[Finding, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    tell: Callable[[StorageRow], None] = lambda row: None

    def counts(self) -> Counter[str]:
        """How often each operation was refused, and went well."""
        pairs = (f"{row.fault.partition('/')[0]} {_outcome(row)}" for row in self.rows)
        return Counter(pairs)

    def hazards(self) -> Counter[str]:
        """How often each hazard showed."""
        return Counter(hazard for row in self.rows for hazard in row.hazards)


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What is to be run.

    Attributes:
        target: name of the target, for findings.
        spec: its machine.
        count: faults of the table, from its beginning; ``None`` for all.
        seconds: after which none is begun, ``None`` for no limit.
        only: part of what a fault is written like; "" for all.
        out: the folder for findings, asked for when there is one; ``None`` to keep none.
    """

    target: str
    spec: MachineSpec
    count: int | None = None
    seconds: float | None = None
    only: str = ""
    out: Callable[[], Path] | None = None

    def faults(self) -> list[StorageFault]:
        """What is tried, in order."""
        return [fault for fault in table() if self.only in str(fault)][: self.count]


async def run(
    settings: StorageSettings, folder: Path, tally: StorageTally, clock: Clock | None = None
) -> None:
    """Try every fault.

    Cancellation ends all processes; what was run until then stands in ``tally``, its findings
    on the disk.

    Args:
        settings: what is to be run.
        folder: for images where shared memory has no room; it exists, and is nobody else's.
        tally: filled as it comes.
        clock: for the limit of time.

    Raises:
        UsageError: the QEMU cannot be started so, or has no blkdebug.
        InfraError: something of ours failed.
    """
    clock = clock or SystemClock()
    until_s = None if settings.seconds is None else clock.now_s() + settings.seconds
    stream = await capture(settings.spec)
    images = BriefFolder(place_for(folder, IMAGES * (len(stream) + OVERHEAD_SIZE)))
    try:
        async with peers(settings.spec, folder, ready=0, spares=1) as crew:
            storage = FailingStorage(crew, images.path, stream)
            for fault in settings.faults():
                if until_s is not None and clock.now_s() >= until_s:
                    break
                await _one(settings, storage, fault, stream, tally)
    finally:
        images.remove()


async def _one(
    settings: StorageSettings,
    storage: FailingStorage,
    fault: StorageFault,
    stream: bytes,
    tally: StorageTally,
) -> None:
    try:
        attempt = await storage.attempt(fault)
    except InfraError as error:
        await storage.renew()
        tally.skipped.append(str(error))
        if len(tally.skipped) > 1 + len(tally.rows) // 2:
            raise
        return
    violations = judge(attempt)
    hazards = tuple(hazard.value for hazard in hazards_of(attempt))
    signatures = tuple(violation.signature for violation in violations)
    row = StorageRow(str(fault), attempt.answer, attempt.state, hazards, signatures)
    tally.rows.append(row)
    tally.tell(row)
    await _report(settings, storage, attempt, violations, stream, tally)


async def _report(
    settings: StorageSettings,
    storage: FailingStorage,
    attempt: StorageAttempt,
    violations: tuple[Violation, ...],
    stream: bytes,
    tally: StorageTally,
) -> None:
    """Try it again, and keep what is new."""
    found = tally.findings
    number = len(tally.rows) - 1
    words = ["loadfuzz", "migrate", settings.target, "--storage", "--only", str(attempt.fault)]

    async def again() -> tuple[Violation, ...]:
        await storage.renew()
        return judge(await storage.attempt(attempt.fault))

    def keep(violation: Violation, reliability: tuple[int, int]) -> None:
        finding = Finding(
            target=settings.target,
            input=Input(stream, faults=attempt.fault.plan),
            violation=violation,
            execution=execution_of(attempt),
            executions=number,
            reliability=reliability,
            again=shlex.join(words),
        )
        found[violation.signature] = (finding, "")  # told even if it cannot be written
        found[violation.signature] = (finding, _write(settings, finding, attempt))

    fresh = news(violations, found, FINDINGS_MAX - len(found))
    await confirm(fresh, again, _is_same, keep)


def _is_same(one: Violation, other: Violation) -> bool:
    return one.signature == other.signature


def _write(settings: StorageSettings, finding: Finding, attempt: StorageAttempt) -> str:
    if settings.out is None:
        return ""
    try:
        out = settings.out()
    except UsageError:
        return ""  # it is told all the same, and that it is not kept
    names = "cannot be read" if attempt.names is None else ", ".join(sorted(attempt.names))
    lines = [
        finding.again,
        "",
        f"QEMU said   {attempt.answer or '(success)'}",
        f"guest       {attempt.state}",
        f"snapshots   {names}",
        f"the other   {attempt.other or 'loads'}",
        f"the saved   {attempt.saved or 'loads, or nothing was'}",
        "",
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = write_finding(out, finding, {"storage.txt": "\n".join(lines).encode()})
    except OSError as error:
        raise explain(error, f"writing to {out}") from error
    return str(out / place) if place else ""


def _outcome(row: StorageRow) -> str:
    return "refused" if row.answer else "done"
