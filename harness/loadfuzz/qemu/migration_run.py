"""Many faulty migrations of one machine, from a seed: plans, rows, findings.

Sources are kept from one migration to the next, so each goes through many failures; after
each failure a migration without faults has to complete.  What broke a promise is tried again
with fresh processes on both sides, and written as a finding with its plan: the same plan
strikes at the same places, though what the guest does meanwhile is never quite the same.
"""

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadfuzz.clock import Clock, SystemClock
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import STREAM_SIZE_MAX, Input
from loadfuzz.qemu.asking import FailedError
from loadfuzz.qemu.confirming import RERUNS, confirm, news
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.migration import Attempt, Operator, Outcome, careful, migrate
from loadfuzz.qemu.migration_account import account
from loadfuzz.qemu.migration_plans import Shape, draw
from loadfuzz.qemu.monitor import encode
from loadfuzz.qemu.one_runner import Hazard, execution_of, hazard_of, judge, judge_retry
from loadfuzz.qemu.peers import Peer, Peers, Role, peers
from loadfuzz.qemu.proxy import PASSING_MAX_S, Ended
from loadfuzz.qemu.section_watch import RECORD_MAX
from loadfuzz.repro.folder import write_finding
from loadfuzz.rng import Rng
from loadfuzz.storage import explain

COUNT_MAX: Final = 1_000_000
"""Migrations of one run: a week of them."""
SOURCE_USES_MAX: Final = 64
"""Migrations of one source: enough for what piles up to show, and then a fresh one."""
FINDINGS_MAX: Final = 64
"""Findings of different signatures that are kept: with more, something else is wrong."""
_CONT: Final = encode("cont")
_STATUS: Final = encode("query-status")


@dataclass(frozen=True, slots=True)
class Row:
    """A migration, in words.

    Attributes:
        number: from 0.
        plan, struck: what was to go wrong, and what did.
        sent, delivered: bytes.
        source, destination: verdicts.
        running: on whom the guest ran in the end; empty for none.
        hazard: that it showed, "" for none.
        violations: signatures of the promises that were broken.
        retried: whether a migration without faults followed, and was judged.
    """

    number: int
    plan: str
    struck: tuple[str, ...]
    sent: int
    delivered: int
    source: str
    destination: str
    running: tuple[str, ...]
    hazard: str
    violations: tuple[str, ...]
    retried: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be run.

    Attributes:
        target: name of the target, for findings.
        spec: its machine.
        count: migrations, up to :data:`COUNT_MAX`.
        seconds: after which none is begun, ``None`` for no limit.
        seed: of the plans.
        autostart: destinations run by themselves, as without ``-S``.
        plan: the one that is run each time, ``None`` for random ones.
        out: the folder for findings, asked for when there is one; ``None`` to keep none.
        operator: decides who is to run.
    """

    target: str
    spec: MachineSpec
    count: int
    seconds: float | None = None
    seed: int = 1
    autostart: bool = False
    plan: FaultPlan | None = None
    out: Callable[[], Path] | None = None
    operator: Operator = careful


@dataclass(slots=True)
class Tally:
    """What was run until now.

    Attributes:
        shape: of a migration without faults, ``None`` before the first.
        rows: of each migration.
        findings: of each signature the first, with the folder it was written to ("" for none).
        skipped: why nothing could be said about a migration.
        tell: hears of each row.
    """

    shape: Shape | None = None
    rows: list[Row] = field(default_factory=list)
    findings: dict[str, tuple[Finding, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    tell: Callable[[Row], None] = lambda row: None

    def add(self, row: Row) -> None:
        """A migration is over."""
        self.rows.append(row)
        self.tell(row)

    def counts(self) -> Counter[str]:
        """How often each pair of verdicts came."""
        return Counter(f"{row.source}/{row.destination}" for row in self.rows)

    def hazards(self) -> Counter[str]:
        """How often each hazard showed."""
        return Counter(row.hazard for row in self.rows if row.hazard)

    @property
    def struck(self) -> int:
        """Migrations that a fault has struck; of the others it came too late, or its place
        never."""
        return sum(bool(row.struck) for row in self.rows)


async def run(settings: Settings, folder: Path, tally: Tally, clock: Clock | None = None) -> None:
    """Migrate again and again.

    Cancellation ends all processes; what was run until then stands in ``tally``, its findings
    on the disk.

    Args:
        settings: what is to be run.
        folder: for what processes print; it exists, and is nobody else's.
        tally: filled as it comes.
        clock: for the limit of time.

    Raises:
        UsageError: the QEMU cannot be started so, or does not even migrate without faults.
        InfraError: something of ours failed.
    """
    clock = clock or SystemClock()
    until_s = None if settings.seconds is None else clock.now_s() + settings.seconds
    rng = Rng(settings.seed)
    async with peers(settings.spec, folder, autostart=settings.autostart) as crew:
        runner = _Runner(settings, crew, tally)
        shape = tally.shape = await runner.rehearse()
        for number in range(settings.count):
            if until_s is not None and clock.now_s() >= until_s:
                break
            plan = settings.plan
            if plan is None:
                plan = draw(shape, rng.child(f"migration/{number}"))
            await runner.one(number, plan)


class _Runner:
    """Who has the source between two migrations."""

    def __init__(self, settings: Settings, crew: Peers, tally: Tally) -> None:
        self._settings = settings
        self._crew = crew
        self._tally = tally
        self._source: Peer | None = None

    async def rehearse(self) -> Shape:
        """Migrate without faults.

        Raises:
            UsageError: that does not go well.
        """
        attempt = await self._migrate(NO_FAULTS)
        name = self._settings.target
        if attempt.destination.outcome is Outcome.COMPLETED and not attempt.passed.state_end:
            raise UsageError(
                f"where the state of {name} ends cannot be told from what it sends: it has no "
                f"section footers, or more than {RECORD_MAX >> 20} MiB; use a machine type newer "
                "than 2.3 and less memory"
            )
        if attempt.passed.ended is Ended.ENDLESS:
            raise UsageError(
                f"{name} does not come to the end of its migration within {PASSING_MAX_S:.0f} s: "
                "its guest changes its memory faster than that passes; use one that does less"
            )
        broken = judge(attempt)
        if broken:
            raise UsageError(
                f"{name} does not migrate even when nothing goes wrong: "
                f"{broken[0].actual}; look whether its devices can be migrated"
            )
        await self._keep(attempt)
        passed = attempt.passed
        return Shape(passed.sent, len(passed.sections), passed.state_end)

    async def one(self, number: int, plan: FaultPlan) -> None:
        """One faulty migration, and what follows from it."""
        try:
            attempt, violations, retried = await self._judged(plan)
        except InfraError as error:
            # Nothing can be said of this one; if it is us, the next one fails, too.
            await self._drop()
            self._tally.skipped.append(str(error))
            if len(self._tally.skipped) > 1 + number // 2:
                raise
            return
        hazard = hazard_of(attempt)
        self._tally.add(_row(number, attempt, hazard, violations, retried=retried))
        await self._report(number, attempt, violations)

    async def _judged(self, plan: FaultPlan) -> tuple[Attempt, tuple[Violation, ...], bool]:
        attempt = await self._migrate(plan)
        violations = judge(attempt)
        retried = False
        if violations:
            await self._drop()
        else:
            await self._keep(attempt)
            if self._source is not None and attempt.source.outcome is not Outcome.COMPLETED:
                retried = True
                again = await self._migrate(NO_FAULTS)
                violations = judge_retry(attempt, again)
                if violations:
                    await self._drop()
                else:
                    await self._keep(again)
        return attempt, violations, retried

    async def _migrate(self, plan: FaultPlan) -> Attempt:
        if self._source is None:
            self._source = await self._crew.take(Role.SOURCE)
        destination = await self._crew.take(Role.DESTINATION)
        try:
            self._crew.refill()
            attempt = await migrate(
                self._source,
                destination,
                plan,
                operator=self._settings.operator,
                autostart=self._settings.autostart,
            )
        finally:
            await self._crew.give_back(destination)
        if attempt.lacks_memory:
            raise InfraError(
                "a QEMU ended for want of memory; make room, or use a machine with less"
            )
        return attempt

    async def _keep(self, attempt: Attempt) -> None:
        """Have the source run again, as if the guest had not gone over; or let go of it."""
        source = self._source
        if source is None:
            return
        if source.killed or source.migrations >= SOURCE_USES_MAX:
            await self._drop()
        elif attempt.source.outcome is Outcome.COMPLETED:
            try:
                runs = not (await source.ask(_CONT, _STATUS))[0].error
            except FailedError:
                runs = False
            if not runs:
                await self._drop()

    async def _drop(self) -> None:
        if self._source is not None:
            source, self._source = self._source, None
            await self._crew.give_back(source)

    async def _report(
        self, number: int, attempt: Attempt, violations: tuple[Violation, ...]
    ) -> None:
        """Try it again, and keep what is new."""
        found = self._tally.findings

        async def again() -> tuple[Violation, ...]:
            try:
                return (await self._judged(attempt.plan))[1]
            finally:
                await self._drop()

        def keep(violation: Violation, reliability: tuple[int, int]) -> None:
            finding = Finding(
                target=self._settings.target,
                input=Input(attempt.stream[:STREAM_SIZE_MAX], faults=attempt.plan),
                violation=violation,
                execution=execution_of(attempt),
                seed=self._settings.seed,
                executions=number,
                reliability=reliability,
                again=_command(self._settings, attempt.plan),
            )
            found[violation.signature] = (finding, "")  # told even if it cannot be written
            found[violation.signature] = (finding, self._write(finding, attempt))

        await confirm(news(violations, found, FINDINGS_MAX - len(found)), again, _is_like, keep)

    def _write(self, finding: Finding, attempt: Attempt) -> str:
        if self._settings.out is None:
            return ""
        try:
            out = self._settings.out()
        except UsageError:
            return ""  # it is told all the same, and that it is not kept
        extra = {"migration.txt": account(finding, attempt).encode()}
        try:
            out.mkdir(parents=True, exist_ok=True)
            place = write_finding(out, finding, extra)
        except OSError as error:
            raise explain(error, f"writing to {out}") from error
        return str(out / place) if place else ""


def _is_like(one: Violation, other: Violation) -> bool:
    """Whether they are one and the same; where a process is caught in a loop is chance."""
    return one.oracle == other.oracle and one.path.split(":")[0] == other.path.split(":")[0]


def _row(
    number: int,
    attempt: Attempt,
    hazard: Hazard | None,
    violations: tuple[Violation, ...],
    *,
    retried: bool,
) -> Row:
    return Row(
        number=number,
        plan=str(attempt.plan),
        struck=tuple(map(str, attempt.struck)),
        sent=attempt.passed.sent,
        delivered=attempt.passed.delivered,
        source=attempt.source.outcome.value,
        destination=attempt.destination.outcome.value,
        running=tuple(role.value for role in attempt.settled.running),
        hazard="" if hazard is None else hazard.value,
        violations=tuple(violation.signature for violation in violations),
        retried=retried,
    )


def _command(settings: Settings, plan: FaultPlan) -> str:
    """What to type to have it again."""
    words = ["loadfuzz", "migrate", settings.target, "--plan", str(plan)]
    words += ["--autostart"] if settings.autostart else []
    return shlex.join([*words, "--count", str(RERUNS)])
