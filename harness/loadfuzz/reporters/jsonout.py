"""The one JSON object of ``run --json``; scripts rely on its shape."""

from dataclasses import dataclass
from pathlib import Path

from loadfuzz import codec
from loadfuzz.campaign.totals import Totals
from loadfuzz.execution import Depth, ExitKind
from loadfuzz.reporters.summary import finding_command


@dataclass(frozen=True, slots=True)
class FindingResult:
    """One finding.

    Attributes:
        reliability: (did it again, re-runs) in a fresh loader.
        folder: of the finding, for ``loadfuzz replay``.
        replay: the whole command.
        times: seen in this run, about.
        known: the folder had it before this run.
    """

    signature: str
    oracle: str
    title: str
    path: str
    reliability: tuple[int, int]
    folder: str
    replay: str
    times: int
    known: bool


@dataclass(frozen=True, slots=True)
class SeedResult:
    """A seed with something to say about it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """A campaign that has ended.

    Attributes:
        corpus: streams in the corpus.
        depths: executions that came at least that deep.
        kinds: executions by exit kind.
        operators: mutations by operator: (applied, of those new behaviour).
        judged: times each oracle was asked.
        load_s: CPU seconds within which 50 % and 99 % of all loads ended.
        ignored: signatures that the configuration names, and about how often each was seen.
        reason: ``budget``, ``interrupted``, ``failed``, ``stale`` or ``first-finding``.
        error: what failed, "" otherwise.
    """

    target: str
    engine: str
    executions: int
    seconds: float
    executions_per_second: float
    corpus: int
    findings: list[FindingResult]
    seed: int
    workers: int
    out: str
    reason: str
    error: str
    depths: dict[str, int]
    kinds: dict[str, int]
    operators: dict[str, tuple[int, int]]
    judged: dict[str, int]
    load_s: dict[str, float | None]
    restarts: int
    seeds_set_aside: list[SeedResult]
    seeds_refused: list[SeedResult]
    warnings: list[str]
    ignored: dict[str, int]


def result(totals: Totals, out: Path, error: str = "") -> Result | None:
    """The result of a campaign; ``None`` if it never started.

    Args:
        totals: of the campaign.
        out: its folder, as people gave it.
        error: what failed.
    """
    started, ended = totals.started, totals.ended
    if started is None or ended is None:
        return None
    return Result(
        target=started.target,
        engine=started.engine,
        executions=totals.executions,
        seconds=round(ended.seconds, 3),
        executions_per_second=round(totals.executions / ended.seconds, 3) if ended.seconds else 0.0,
        corpus=totals.corpus,
        findings=[
            FindingResult(
                signature=finding.signature,
                oracle=finding.oracle,
                title=finding.title,
                path=finding.path,
                reliability=finding.reliability,
                folder=str(out / finding.folder),
                replay=finding_command(out, finding.folder),
                times=totals.times_seen(finding.signature),
                known=finding.signature in totals.known,
            )
            for finding in totals.findings.values()
        ],
        seed=started.seed,
        workers=started.workers,
        out=str(out),
        reason=ended.reason,
        error=error,
        depths={depth.name.lower(): totals.reached(depth) for depth in Depth},
        kinds={kind.value: totals.kind(kind.value) for kind in ExitKind},
        operators={row.name: (row.applied, row.fresh) for row in totals.operators()},
        judged=totals.judged(),
        load_s={"p50": totals.load_s(0.5), "p99": totals.load_s(0.99)},
        restarts=totals.restarts,
        seeds_set_aside=[SeedResult(seed.name, seed.reason) for seed in totals.set_aside],
        seeds_refused=[SeedResult(seed.name, seed.reason) for seed in totals.refused],
        warnings=list(totals.warnings),
        ignored=totals.ignored(),
    )


def to_line(value: Result) -> str:
    """``value`` as one line of JSON."""
    return codec.encode(value).decode() + "\n"
