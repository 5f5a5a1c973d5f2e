"""The maps of a sweep as text and as JSON."""

from collections.abc import Sequence
from typing import Final, TypedDict

from loadfuzz.execution import ExitKind
from loadfuzz.sweeps.cells import Broken, Map
from loadfuzz.wording import count, printable

STRETCHES_SHOWN: Final = 12
"""Stretches of one stream in the table, beside the verdict that most places have."""
BROKEN_SHOWN: Final = 10
"""Wrong verdicts that are told in full."""
NAME_WIDTH: Final = 22


class StretchJson(TypedDict):
    """Neighbouring places with one verdict."""

    start: int
    end: int
    verdict: str
    places: int


class BrokenJson(TypedDict):
    """A place whose verdict breaks the expectation."""

    offset: int
    oracle: str
    signature: str
    title: str
    fault: list[str]


class MapJson(TypedDict):
    """One stream's map."""

    stream: str
    size: int
    places: int
    struck: int
    verdicts: dict[str, int]
    wrong: int
    stretches: list[StretchJson]
    broken: list[BrokenJson]


def table(maps: Sequence[Map]) -> list[str]:
    """A line for each stream: how many places had which verdict."""
    kinds = [kind for kind in ExitKind if any(one.counts()[kind] for one in maps)]
    head = " ".join(f"{kind:>13}" for kind in kinds)
    lines = [f"{'stream':<{NAME_WIDTH}} {'places':>8} {head} {'broken':>6}"]
    for one in maps:
        counts = one.counts()
        cells = " ".join(f"{counts[kind]:>13,}" for kind in kinds)
        name = one.name if len(one.name) <= NAME_WIDTH else one.name[: NAME_WIDTH - 1] + "…"
        lines.append(
            f"{printable(name):<{NAME_WIDTH}} {len(one.verdicts):>8,} {cells} {len(one.wrong):>6}"
        )
    return lines


def details(one: Map) -> list[str]:
    """Where of one stream the verdict was another than at most places."""
    counts = one.counts()
    usual = max(counts, key=lambda kind: counts[kind])
    rest = [stretch for stretch in one.stretches() if stretch.kind is not usual]
    if not rest:
        return []
    lines = [f"{one.name}: {usual} everywhere but"]
    for stretch in rest[:STRETCHES_SHOWN]:
        where = printable(one.mark_at(stretch.start))
        span = f"{stretch.start:#x}"
        if stretch.end != stretch.start:
            span += f"-{stretch.end:#x}"
        lines.append(f"  {stretch.kind} at {span}, in {where} ({count(stretch.count, 'place')})")
    if len(rest) > STRETCHES_SHOWN:
        lines.append(
            f"  and {count(len(rest) - STRETCHES_SHOWN, 'more stretch', 'more stretches')}"
        )
    return lines


def wrong(maps: Sequence[Map]) -> list[str]:
    """The places whose verdict breaks the expectation, one of each signature first."""
    lines: list[str] = []
    seen: set[str] = set()
    for one in maps:
        for place in one.broken:
            if place.violation.signature in seen:
                continue
            seen.add(place.violation.signature)
            if len(seen) <= BROKEN_SHOWN:
                lines += _told(one, place)
    if len(seen) > BROKEN_SHOWN:
        lines.append(f"and {len(seen) - BROKEN_SHOWN} more kinds of them")
    return lines


def _told(one: Map, place: Broken) -> list[str]:
    violation = place.violation
    return [
        printable(line)
        for line in (
            f"{violation.oracle}: {violation.title}",
            f"  {one.name}, offset {place.offset:#x}: {'; '.join(place.words)}",
            f"  expected {violation.expected}",
            f"  actual   {violation.actual}",
        )
    ]


def as_json(one: Map) -> MapJson:
    """For scripts."""
    return {
        "stream": one.name,
        "size": one.size,
        "places": len(one.verdicts),
        "struck": one.struck,
        "verdicts": {str(kind): number for kind, number in one.counts().items()},
        "wrong": len(one.wrong),
        "stretches": [
            {"start": s.start, "end": s.end, "verdict": str(s.kind), "places": s.count}
            for s in one.stretches()
        ],
        "broken": [
            {
                "offset": place.offset,
                "oracle": place.violation.oracle,
                "signature": place.violation.signature,
                "title": place.violation.title,
                "fault": list(place.words),
            }
            for place in one.broken
        ],
    }
