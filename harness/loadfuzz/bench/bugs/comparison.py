"""What the trials of several fuzzers say about them, bug by bug and side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadfuzz.bench.bugs.meetings import First, Meeting
from loadfuzz.bench.bugs.statistics import a12, mann_whitney_p, median, restricted_mean
from loadfuzz.bench.bugs.trial import TrialResult
from loadfuzz.bench.results import Figure
from loadfuzz.bench.truth import BugRow

Pick = Callable[[Meeting], First | None]


@dataclass(frozen=True, slots=True)
class BugFuzzerRow:
    """One bug and one fuzzer.

    Attributes:
        bug, bug_class, oracle: of the bug.
        fuzzer: who looked for it.
        trials: of that fuzzer.
        reached, triggered, detected: in how many of them.
        seconds_reached, seconds_triggered, seconds_detected: restricted mean times, a trial
            without it counting with its whole budget.
        executions_detected: median over the trials that detected it, ``None`` for none.
    """

    bug: str
    bug_class: str
    oracle: str
    fuzzer: str
    trials: int
    reached: int
    triggered: int
    detected: int
    seconds_reached: float
    seconds_triggered: float
    seconds_detected: float
    executions_detected: float | None


@dataclass(frozen=True, slots=True)
class FuzzerRow:
    """One fuzzer.

    Attributes:
        fuzzer: its name.
        trials: that ended.
        executions_per_second: median over trials, of all workers together.
        features: behaviours that feedback tells apart, median over trials.
        triggered, detected: bugs, median over trials.
        detected_min, detected_max: bugs, the fewest and the most.
        mean_time_s: restricted mean time to detection, over bugs and trials.
        complete_s: median time until all bugs were detected, ``None`` if most trials did
            not get there.
        alone: bugs that no other fuzzer has detected in any trial.
    """

    fuzzer: str
    trials: int
    executions_per_second: float
    features: float
    triggered: float
    detected: float
    detected_min: int
    detected_max: int
    mean_time_s: float
    complete_s: float | None
    alone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """The first fuzzer against another one.

    Attributes:
        ours, theirs: who.
        time_ratio: their restricted mean time to a bug over ours.
        a12_time: how likely a trial of ours has the lower mean time.
        a12_detected: how likely a trial of ours has detected more bugs.
        p_time, p_detected: two-sided, Mann-Whitney.
    """

    ours: str
    theirs: str
    time_ratio: float
    a12_time: float
    a12_detected: float
    p_time: float
    p_detected: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it.

    Attributes:
        budget_s: of a trial, in seconds.
        rows: bug by bug.
        fuzzers: side by side, ours first.
        contests: ours against each other one.
    """

    budget_s: float
    rows: tuple[BugFuzzerRow, ...]
    fuzzers: tuple[FuzzerRow, ...]
    contests: tuple[Contest, ...]

    def figures(self) -> list[Figure]:
        """The comparison as every benchmark prints it."""
        found = [
            Figure(
                f"detected-{row.fuzzer}", row.detected, "bugs", float(len(self._bugs())),
                row.detected / max(len(self._bugs()), 1), None, "known bugs of the target",
            )
            for row in self.fuzzers
        ]  # fmt: skip
        mean = {row.fuzzer: row.mean_time_s for row in self.fuzzers}
        found += [
            Figure(
                f"time-to-bug-vs-{contest.theirs}", mean[contest.ours], "s",
                mean[contest.theirs], contest.time_ratio, 5.0,
                f"restricted mean time to detection; A12 {contest.a12_time:.2f}",
            )
            for contest in self.contests
        ]  # fmt: skip
        return found

    def _bugs(self) -> set[str]:
        return {row.bug for row in self.rows}


def compare(
    manifest: Sequence[BugRow], results: Sequence[TrialResult], order: Sequence[str],
    budget_s: float,
) -> Comparison:  # fmt: skip
    """Compare fuzzers.

    Args:
        manifest: every known bug.
        results: of trials; those of fuzzers that are not in ``order`` are left out.
        order: names of fuzzers, ours first.
        budget_s: of each trial, in seconds.
    """
    by_fuzzer = {
        name: trials
        for name in order
        if (trials := [result for result in results if result.fuzzer == name])
    }
    rows = tuple(
        _bug_row(bug, name, trials, budget_s)
        for bug in manifest
        for name, trials in by_fuzzer.items()
    )
    found = {
        name: {row.bug for row in rows if row.fuzzer == name and row.detected} for name in by_fuzzer
    }
    fuzzers = []
    for name, trials in by_fuzzer.items():
        others = set().union(*(bugs for other, bugs in found.items() if other != name))
        alone = tuple(sorted(found[name] - others)) if len(by_fuzzer) > 1 else ()
        fuzzers.append(_fuzzer_row(name, trials, budget_s, alone))
    names = list(by_fuzzer)
    contests = tuple(
        _contest(names[0], by_fuzzer[names[0]], other, by_fuzzer[other], budget_s)
        for other in names[1:]
    )
    return Comparison(budget_s, rows, tuple(fuzzers), contests)


def _reached(meeting: Meeting) -> First | None:
    return meeting.reached


def _triggered(meeting: Meeting) -> First | None:
    return meeting.triggered


def _detected(meeting: Meeting) -> First | None:
    return meeting.detected


def _bug_row(
    bug: BugRow, fuzzer: str, trials: Sequence[TrialResult], budget_s: float
) -> BugFuzzerRow:
    met = [
        next(meeting for meeting in trial.meetings if meeting.bug == bug.name) for trial in trials
    ]

    def times(pick: Pick) -> list[float | None]:
        firsts = [pick(meeting) for meeting in met]
        return [None if first is None else first.seconds for first in firsts]

    def count(pick: Pick) -> int:
        return sum(pick(meeting) is not None for meeting in met)

    executions = [meeting.detected.executions for meeting in met if meeting.detected is not None]
    reached, triggered, detected = (
        round(restricted_mean(times(pick), budget_s), 3)
        for pick in (_reached, _triggered, _detected)
    )
    return BugFuzzerRow(
        bug.name, bug.bug_class, bug.oracle, fuzzer, len(trials),
        count(_reached), count(_triggered), count(_detected),
        reached, triggered, detected,
        median(executions) if executions else None,
    )  # fmt: skip


def _fuzzer_row(
    fuzzer: str, trials: Sequence[TrialResult], budget_s: float, alone: tuple[str, ...]
) -> FuzzerRow:
    detected = [trial.detected for trial in trials]
    complete = [_complete_s(trial) for trial in trials]
    whole = [seconds for seconds in complete if seconds is not None]
    return FuzzerRow(
        fuzzer,
        len(trials),
        round(median([trial.executions / max(trial.seconds, 1e-3) for trial in trials]), 1),
        median([trial.features for trial in trials]),
        median([trial.triggered for trial in trials]),
        median(detected),
        min(detected),
        max(detected),
        round(sum(mean_time_s(trial, budget_s) for trial in trials) / len(trials), 3),
        median([budget_s if seconds is None else seconds for seconds in complete])
        if 2 * len(whole) > len(trials)
        else None,
        alone,
    )


def mean_time_s(trial: TrialResult, budget_s: float) -> float:
    """Restricted mean time to detection of one trial, over its bugs."""
    return restricted_mean(
        [None if meeting.detected is None else meeting.detected.seconds
         for meeting in trial.meetings],
        budget_s,
    )  # fmt: skip


def _complete_s(trial: TrialResult) -> float | None:
    firsts = [meeting.detected for meeting in trial.meetings]
    found = [first.seconds for first in firsts if first is not None]
    return max(found) if found and len(found) == len(firsts) else None


def _contest(
    ours: str,
    our_trials: Sequence[TrialResult],
    theirs: str,
    their_trials: Sequence[TrialResult],
    budget_s: float,
) -> Contest:
    our_times = [mean_time_s(trial, budget_s) for trial in our_trials]
    their_times = [mean_time_s(trial, budget_s) for trial in their_trials]
    our_bugs = [float(trial.detected) for trial in our_trials]
    their_bugs = [float(trial.detected) for trial in their_trials]
    ratio = (sum(their_times) / len(their_times)) / max(sum(our_times) / len(our_times), 1e-9)
    return Contest(
        ours, theirs, round(ratio, 2),
        # Less time is better, so the sides change places.
        round(a12(their_times, our_times), 3), round(a12(our_bugs, their_bugs), 3),
        mann_whitney_p(our_times, their_times), mann_whitney_p(our_bugs, their_bugs),
    )  # fmt: skip
