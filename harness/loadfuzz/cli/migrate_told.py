"""What ``loadfuzz migrate`` tells when it is over, for people and as JSON."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from loadfuzz import codec
from loadfuzz.findings import Finding
from loadfuzz.qemu import one_runner, storage_oracle
from loadfuzz.qemu.migration_run import Tally
from loadfuzz.qemu.storage_run import StorageTally
from loadfuzz.wording import count, printable

H = TypeVar("H", bound=StrEnum)


def summary(tally: Tally) -> list[str]:
    """Lines on migrations: verdicts, who ran, hazards, findings."""
    rows = tally.rows
    lines = [count(len(rows), "migration")]
    if tally.shape is not None:
        shape = tally.shape
        lines[0] += (
            f" of a machine that sends {shape.size:,} bytes in {count(shape.sections, 'section')}"
        )
    lines.append(f"a fault has struck {tally.struck:,} of them")
    lines += ["", f"{'source':<11}{'destination':<15}{'times':>6}   for example"]
    for pair, times in tally.counts().most_common():
        source, _, destination = pair.partition("/")
        those = [row for row in rows if (row.source, row.destination) == (source, destination)]
        plans = {row.plan for row in those if row.struck}
        shown = min(plans, key=lambda plan: (len(plan), plan), default="no fault struck")
        lines.append(f"{source:<11}{destination:<15}{times:>6}   {shown}")
    retried = sum(row.retried for row in rows)
    lines += [
        "",
        f"after {count(retried, 'failure')} the source migrated once more, without faults",
    ]
    runners = [len(row.running) for row in rows]
    lines.append(
        f"in the end the guest ran on one side {runners.count(1):,} times, on both "
        f"{sum(number > 1 for number in runners):,} times, on none {runners.count(0):,} times"
    )
    lines += _hazards(tally.hazards(), one_runner.MEANINGS)
    return lines + _findings(tally.findings, tally.skipped)


def storage_summary(tally: StorageTally) -> list[str]:
    """Lines on failing disks: outcomes, hazards, findings."""
    lines = [count(len(tally.rows), "operation") + " while the disk failed", ""]
    lines += [f"{what:<20}{times:>6}" for what, times in sorted(tally.counts().items())]
    lines += _hazards(tally.hazards(), storage_oracle.MEANINGS)
    return lines + _findings(tally.findings, tally.skipped)


def _hazards(hazards: Counter[str], meanings: Mapping[H, str]) -> list[str]:
    if not hazards:
        return []
    words = {hazard.value: text for hazard, text in meanings.items()}
    lines = ["", "known hazards, no findings:"]
    width = max(map(len, hazards))
    for name, times in hazards.most_common():
        lines.append(f"  {name:<{width}} {times:>5}   {words[name]}")
    return lines


def _findings(findings: Mapping[str, tuple[Finding, str]], skipped: list[str]) -> list[str]:
    lines: list[str] = []
    if skipped:
        lines += ["", f"{count(len(skipped), 'time')} nothing can be said: {skipped[0]}"]
    lines += ["", count(len(findings), "finding") if findings else "no finding"]
    for signature, (finding, place) in findings.items():
        violation = finding.violation
        done, tries = finding.reliability
        again = f"again {done} of {tries} times" if tries else "could not be tried again"
        lines += [
            f"  {printable(signature)}",
            f"    {printable(violation.title)}; {again}",
            f"    {printable(str(finding.input.faults))}",
            f"    {place}" if place else "    not kept: it could not be written",
        ]
    return lines


def json_of(target: str, tally: Tally, *, seed: int, autostart: bool) -> str:
    """The same as one JSON object, with a row for each migration."""
    value = {
        "target": target,
        "seed": seed,
        "autostart": autostart,
        "shape": tally.shape,
        "migrations": len(tally.rows),
        "struck": tally.struck,
        "verdicts": dict(tally.counts()),
        "hazards": dict(tally.hazards()),
        "skipped": len(tally.skipped),
        "findings": _found(tally.findings),
        "rows": tally.rows,
    }
    return codec.encode(value).decode()


def storage_json_of(target: str, tally: StorageTally) -> str:
    """The same as one JSON object, with a row for each operation."""
    value = {
        "target": target,
        "operations": len(tally.rows),
        "outcomes": dict(tally.counts()),
        "hazards": dict(tally.hazards()),
        "skipped": len(tally.skipped),
        "findings": _found(tally.findings),
        "rows": tally.rows,
    }
    return codec.encode(value).decode()


def _found(findings: Mapping[str, tuple[Finding, str]]) -> list[dict[str, object]]:
    return [
        {
            "signature": signature,
            "oracle": finding.violation.oracle,
            "title": finding.violation.title,
            "actual": finding.violation.actual,
            "plan": str(finding.input.faults),
            "reliability": finding.reliability,
            "folder": place,
        }
        for signature, (finding, place) in findings.items()
    ]
