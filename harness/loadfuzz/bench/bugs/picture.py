"""Survival curves: what share of bugs each fuzzer has not detected yet, over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadfuzz.bench.bugs.statistics import survival
from loadfuzz.bench.bugs.trial import TrialResult
from loadfuzz.errors import InfraError
from loadfuzz.pictures import check_picture

FIRST_S: Final = 0.1
"""Where the time axis begins; it is logarithmic."""
_COLOURS: Final = ("#0b5fa5", "#d1495b", "#e08e0b", "#3a7d44", "#7b4ea3", "#5c6b73", "#00868b")
_STYLES: Final = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def draw(results: Sequence[TrialResult], order: Sequence[str], budget_s: float, path: Path) -> None:
    """Draw one curve for each fuzzer over all of its trials.

    Args:
        results: of trials.
        order: names of fuzzers, in the order of the legend.
        budget_s: of each trial.
        path: of the picture; its suffix says which kind.

    Raises:
        UsageError: no picture has that suffix.
        InfraError: matplotlib is missing, or the picture cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.6), layout="constrained")
    axes = canvas.subplots()
    for at, name in enumerate(name for name in order if any(r.fuzzer == name for r in results)):
        trials = [result for result in results if result.fuzzer == name]
        times = [
            None if meeting.detected is None else max(meeting.detected.seconds, FIRST_S)
            for trial in trials
            for meeting in trial.meetings
        ]
        points = survival(times, budget_s)
        axes.step(
            [max(time, FIRST_S) for time, _ in points],
            [100 * share for _, share in points],
            where="post",
            label=f"{name} ({len(trials)} trials)",
            color=_COLOURS[at % len(_COLOURS)],
            linestyle=_STYLES[at % len(_STYLES)],
            linewidth=2,
        )
    axes.set_xscale("log")
    axes.set_xlim(FIRST_S, budget_s)
    axes.set_ylim(0, 102)
    axes.set_xlabel("seconds since the trial began")
    axes.set_ylabel("bugs not detected yet, %")
    axes.set_title("Known bugs that each fuzzer has still to detect", loc="left")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    try:
        canvas.savefig(path, dpi=150)
    except OSError as error:
        raise InfraError(f"writing {path} failed: {error.strerror}") from error
