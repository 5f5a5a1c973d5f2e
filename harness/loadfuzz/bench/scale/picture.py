"""Four curves over the size of a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadfuzz.bench.scale.model import Outcome
from loadfuzz.errors import InfraError
from loadfuzz.pictures import check_picture

_COLOUR: Final = "#0b5fa5"


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw them.

    Raises:
        UsageError: no picture has that suffix.
        InfraError: matplotlib is missing, or the picture cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 6), layout="constrained")
    workers = [outcome.workers for outcome in outcomes]
    panels = (
        ("supervisor and admission, % of a core", [100 * o.supervisor for o in outcomes]),
        ("bytes moved, MB/s", [o.bytes_per_s / 1e6 for o in outcomes]),
        ("streams sent twice, %", [100 * o.duplicates for o in outcomes]),
        ("time to find all known bugs, s", [o.seconds_all for o in outcomes]),
    )
    for axes, (title, values) in zip(canvas.subplots(2, 2).flat, panels, strict=True):
        axes.plot(workers, values, marker="o", markersize=4, color=_COLOUR)
        axes.set_xscale("log")
        if max(values) > 0 and title.startswith(("time", "bytes")):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("workers")
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        canvas.savefig(path, dpi=150)
    except OSError as error:
        raise InfraError(f"{path} cannot be written: {error.strerror}") from error
