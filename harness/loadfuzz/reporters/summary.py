"""The last words of a campaign, for people."""

from pathlib import Path
from typing import Final

from loadfuzz.campaign.totals import Totals
from loadfuzz.execution import Depth
from loadfuzz.repro.report import replay_command
from loadfuzz.wording import count, percent, printable, rate, shorten

FINDINGS_SHOWN: Final = 20
"""Findings listed; all are in the folder."""
SEEDS_SHOWN: Final = 10
"""Bad seeds listed; all are in the event log."""
WIDTH: Final = 80

DEPTHS: Final = (
    (Depth.HEADER, "header"),
    (Depth.FIRST_SECTION, "first section"),
    (Depth.ALL_SECTIONS, "all sections"),
    (Depth.ACCEPTED, "accepted"),
)
"""The funnel: how deep inputs get, and what it is called."""

_REASONS: Final = {
    "budget": "budget used up",
    "interrupted": "interrupted",
    "failed": "failed",
    "stale": "nothing new any more",
    "first-finding": "first finding",
}


def finding_command(out: Path, folder: str) -> str:
    """The command that replays a finding of the campaign in ``out``."""
    return replay_command(str(out / folder))


def summary(totals: Totals, out: Path) -> str:
    """The text, each line with its newline.

    Args:
        totals: of the campaign, which has ended.
        out: its folder, as people gave it.
    """
    lines = [*_run_lines(totals), *_seed_lines(totals)]
    lines += [f"warning: {printable(text)}" for text in totals.warnings]
    # Those of this run first: the others were read before.
    findings = sorted(totals.findings.values(), key=lambda item: item.signature in totals.known)
    lines += [
        f"ignored, as configured: {shorten(printable(signature), 40)} ({count(times, 'time')})"
        for signature, times in totals.ignored().items()
    ]
    if not findings:
        lines.append(f"No findings. Corpus and event log are in {out}")
    else:
        known = len(totals.known)
        news = f": {len(findings) - known} new, {known} known from earlier runs" if known else ""
        lines += ["", f"{count(len(findings), 'finding')} in {out / 'findings'}{news}"]
    for number, finding in enumerate(findings[:FINDINGS_SHOWN], 1):
        done, tries = finding.reliability
        again = f"; again in {done} of {tries} re-runs" if tries else ""
        mark = "known, " if finding.signature in totals.known else ""
        where = f" at {finding.path}" if finding.path else ""
        place = f"{mark}{finding.oracle}{where}{again}"
        lines += [
            "",
            f"{number:3}. {shorten(finding.title, WIDTH - 5)}",
            f"     {shorten(place, WIDTH - 5)}",
            f"     {finding_command(out, finding.folder)}",
        ]
    if len(findings) > FINDINGS_SHOWN:
        lines += [
            "",
            f"     and {len(findings) - FINDINGS_SHOWN} more, each a folder in {out}/findings",
        ]
    return "".join(f"{line}\n" for line in lines)


def _run_lines(totals: Totals) -> list[str]:
    started, ended = totals.started, totals.ended
    if started is None or ended is None:
        return []
    executions = totals.executions
    speed = executions / ended.seconds if ended.seconds > 0 else 0.0
    reason = _REASONS.get(ended.reason, ended.reason)
    funnel = ", ".join(
        f"{name} {percent(totals.reached(depth), executions)}" for depth, name in DEPTHS
    )
    return [
        f"{started.target}, {started.engine} engine, {count(started.workers, 'worker')}, "
        f"seed {started.seed}: {reason} after {ended.seconds:.1f} s",
        f"{count(executions, 'execution')}, {rate(speed)}, "
        f"corpus {totals.corpus:,} ({count(started.seeds, 'seed')})",
        "how deep inputs got:",
        f"  {funnel}",
    ]


def _seed_lines(totals: Totals) -> list[str]:
    lines: list[str] = []
    if totals.set_aside:
        lines.append(f"{count(len(totals.set_aside), 'seed')} set aside:")
        lines += [
            f"  {printable(seed.name)}: {printable(seed.reason)}"
            for seed in totals.set_aside[:SEEDS_SHOWN]
        ]
        if len(totals.set_aside) > SEEDS_SHOWN:
            lines.append(f"  and {len(totals.set_aside) - SEEDS_SHOWN} more, see events.ndjson")
    if totals.refused:
        lines.append(f"{count(len(totals.refused), 'seed')} not accepted by the target, but used:")
        lines += [
            f"  {printable(seed.name)}: {printable(seed.reason)}"
            for seed in totals.refused[:SEEDS_SHOWN]
        ]
        if len(totals.refused) > SEEDS_SHOWN:
            lines.append(f"  and {len(totals.refused) - SEEDS_SHOWN} more, see events.ndjson")
    return lines
