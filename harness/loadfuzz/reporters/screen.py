"""What the live screen shows: a picture of the totals, made anew each time."""

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadfuzz.campaign.totals import Totals
from loadfuzz.reporters.pace import Pace
from loadfuzz.reporters.summary import DEPTHS
from loadfuzz.wording import brief, count, duration, percent, rate, shorten

WIDTH_MAX: Final = 100
"""Columns used at most; wider than this the eye loses the line."""
BAR_WIDTH: Final = 34
_BARS: Final = "━─"
_PLAIN_BARS: Final = "#."
FINISHING_S: Final = 1.0
"""So long after its time a campaign is said to be finishing: workers confirm what they found."""
ROWS_MAX: Final = 8
"""Findings or operators shown at most, however high the terminal is."""

_FIXED_ROWS: Final = 15
"""Lines beside findings, operators and the warning, blank ones and headings included."""


def picture(
    totals: Totals, pace: Pace, news: "News", width: int, height: int, *, fancy: bool = True
) -> RenderableType:
    """The screen.

    Args:
        totals: what to show.
        pace: of the campaign.
        news: when something was last new.
        width, height: columns and lines of the terminal.
        fancy: it can show more than ASCII.
    """
    width = min(width, WIDTH_MAX)
    started = totals.started
    if started is None:
        return Text(f"preparing seeds  {duration(pace.elapsed_s)}", style="dim")
    if not news.begun:
        return Text(
            f"starting {count(started.workers, 'worker')} of {started.target}, "
            f"{started.engine}  {duration(pace.elapsed_s)}",
            style="dim",
        )
    room = height - 1 - _FIXED_ROWS - bool(totals.warnings)
    operators_max = min(room // 2, ROWS_MAX)
    findings_max = min(max(room - max(operators_max, 0), 1), ROWS_MAX)
    parts: list[RenderableType] = [
        _head(totals, pace, width),
        Text(),
        _numbers(totals, pace, news),
        Text(),
        _funnel(totals, width, _BARS if fancy else _PLAIN_BARS),
    ]
    if operators_max > 0 and totals.operators():
        parts += [Text(), _operators(totals, operators_max, width)]
    parts += [Text(), *_findings(totals, findings_max, width)]
    if totals.warnings:
        parts.append(Text(shorten(totals.warnings[-1], width), style="yellow"))
    return Group(*parts)


class News:
    """When something was last new, on the pace's clock.

    Attributes:
        begun: the first worker is ready.
        corpus_s, finding_s: when the last entry or finding came.
    """

    __slots__ = ("begun", "corpus_s", "finding_s")

    def __init__(self) -> None:
        self.begun = False
        self.corpus_s: float | None = None
        self.finding_s: float | None = None


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _ago(since_s: float | None, pace: Pace) -> str:
    return "none yet" if since_s is None else f"{duration(pace.elapsed_s - since_s)} ago"


def _head(totals: Totals, pace: Pace, width: int) -> RenderableType:
    started = totals.started
    assert started is not None
    table = Table.grid(expand=False, padding=0)
    left = Text()
    left.append("loadfuzz ", style="bold")
    left.append(f"{started.target}  ")
    left.append(
        f"{started.engine}, {count(totals.workers_running, 'worker')}, seed {started.seed}",
        style="dim",
    )
    right = Text(_left(totals, pace), style="bold")
    table.add_column(width=max(width - len(right), 1), no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", width=len(right))
    table.add_row(left, right)
    return table


def _left(totals: Totals, pace: Pace) -> str:
    started = totals.started
    assert started is not None
    parts = [duration(pace.elapsed_s)]
    if started.time_s is not None:
        over = pace.elapsed_s > started.time_s + FINISHING_S
        parts[0] += f" of {duration(started.time_s)}" + (", finishing" if over else "")
    if started.executions is not None:
        parts.append(percent(totals.executions, started.executions))
    return ", ".join(parts)


def _numbers(totals: Totals, pace: Pace, news: News) -> RenderableType:
    executions = totals.executions
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("executions", f"{executions:,}", rate(pace.rate(executions)), _loads(totals))
    table.add_row("corpus", f"{totals.corpus:,}", f"last new {_ago(news.corpus_s, pace)}", "")
    table.add_row(
        "findings",
        Text(f"{len(totals.findings):,}", style="bold red" if totals.findings else ""),
        f"last new {_ago(news.finding_s, pace)}",
        _kinds_of_findings(totals),
    )
    return table


def _loads(totals: Totals) -> str:
    """How long a load takes, and how often a worker had to be replaced."""
    parts = []
    half, most = totals.load_s(0.5), totals.load_s(0.99)
    if half is not None and most is not None:
        parts.append(f"a load {brief(half)}, 99 % {brief(most)}")
    if totals.restarts:
        parts.append(f"restarts {totals.restarts}")
    return ", ".join(parts)


def _kinds_of_findings(totals: Totals) -> str:
    parts = [(len(totals.known), "known before"), (totals.flaky, "flaky")]
    return ", ".join(f"{number} {name}" for number, name in parts if number)


def _funnel(totals: Totals, width: int, bars: str) -> RenderableType:
    executions = totals.executions
    bar = max(min(BAR_WIDTH, width - 46), 4)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(width=bar, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for depth, name in DEPTHS:
        reached = totals.reached(depth)
        filled = round(bar * reached / executions) if executions else 0
        text = Text(bars[0] * filled, style="green")
        text.append(bars[1] * (bar - filled), style="dim")
        table.add_row(name, text, percent(reached, executions), f"{reached:,}")
    return Group(_line("how deep inputs get", "dim"), table)


def _operators(totals: Totals, most: int, width: int) -> RenderableType:
    rows = totals.operators()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, width=min(28, width - 30))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows[:most]:
        table.add_row(shorten(row.name, 28), f"{row.applied:,}", f"{row.fresh:,} new")
    rest = len(rows) - most
    title = "operators that show most new behaviour" + (f" (of {len(rows)})" if rest > 0 else "")
    return Group(_line(title, "dim"), table)


def _findings(totals: Totals, most: int, width: int) -> list[RenderableType]:
    findings = list(totals.findings.values())
    if not findings:
        return [_line("no findings so far; Ctrl-C stops", "dim")]
    lines: list[RenderableType] = []
    hidden = len(findings) - most
    title = f"latest findings ({hidden} more in the folder)" if hidden > 0 else "findings"
    lines.append(_line(f"{title}; Ctrl-C stops", "dim"))
    for finding in findings[-most:]:
        done, tries = finding.reliability
        again = f" {done}/{tries}" if tries else ""
        name = f"{finding.oracle}{again}  "
        line = Text(name, style="red")
        line.append(shorten(finding.title, max(width - len(name), 10)), style="default")
        lines.append(line)
    return lines
