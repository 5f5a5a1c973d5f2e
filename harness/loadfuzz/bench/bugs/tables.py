"""The comparison for people, at 80 columns."""

from rich.console import Console
from rich.table import Table

from loadfuzz.bench.bugs.comparison import Comparison
from loadfuzz.bench.truth import BugRow


def print_manifest(rows: "tuple[BugRow, ...] | list[BugRow]", console: Console) -> None:
    """Every known bug: class, name, oracle, what triggers it, what it mirrors."""
    for row in rows:
        console.print(f"[bold]{row.bug_class} {row.name}[/]  {row.device}: {row.field}")
        console.print(f"    {row.oracle}; {row.trigger}", highlight=False)
        console.print(f"    [dim]{row.mirrors}[/]", highlight=False)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Fuzzers side by side, then bugs one by one."""
    bugs = len({row.bug for row in comparison.rows})
    table = Table("fuzzer", "trials", "detected", "least-most", "mean time", "all", "execs/s",
                  box=None)  # fmt: skip
    for row in comparison.fuzzers:
        table.add_row(
            row.fuzzer, str(row.trials), f"{row.detected:g} of {bugs}",
            f"{row.detected_min}-{row.detected_max}", f"{row.mean_time_s:.1f} s",
            "-" if row.complete_s is None else f"{row.complete_s:.0f} s",
            f"{row.executions_per_second:,.0f}",
        )  # fmt: skip
    console.print(table)
    for contest in comparison.contests:
        console.print(
            f"{contest.ours} against {contest.theirs}: {contest.time_ratio:.1f} x less time to a "
            f"bug, A12 {contest.a12_time:.2f} (p {contest.p_time:.2g}); bugs A12 "
            f"{contest.a12_detected:.2f} (p {contest.p_detected:.2g})",
            highlight=False,
        )
    for row in comparison.fuzzers:
        if row.alone:
            console.print(f"only {row.fuzzer} finds: {', '.join(row.alone)}", highlight=False)
    names = [row.fuzzer for row in comparison.fuzzers]
    each = Table("bug", "class", *names, box=None, title="trials that reached / triggered / "
                 "detected it, and the restricted mean time", title_justify="left")  # fmt: skip
    for at in range(0, len(comparison.rows), len(names)):
        same = comparison.rows[at : at + len(names)]
        each.add_row(
            same[0].bug,
            same[0].bug_class,
            *(
                f"{row.reached}/{row.triggered}/{row.detected} {row.seconds_detected:.1f}"
                for row in same
            ),
        )
    console.print(each)
