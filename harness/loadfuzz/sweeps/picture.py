"""The maps of a sweep as a picture: offsets along the axis, coloured by verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadfuzz.errors import InfraError
from loadfuzz.execution import ExitKind
from loadfuzz.pictures import check_picture
from loadfuzz.sweeps.cells import Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = {
    ExitKind.ACCEPTED: "#2a9d5c",
    ExitKind.REJECTED: "#b9c4d0",
    ExitKind.CRASHED: "#c1121f",
    ExitKind.TIMED_OUT: "#e07b00",
    ExitKind.OUT_OF_MEMORY: "#7b3fa0",
}
ROWS_MAX: Final = 24
"""Streams in one picture; those with a wrong verdict come first."""
NAMED_ROWS: Final = 6
"""With more streams than this, sections are marked but have no room for names."""
NAME_GAP: Final = 0.0085
"""Share of the axis between two names: less, and they cover each other."""
DOTS: Final = 1400
"""Narrowest stretch that can be seen: one of so many of the axis."""
NAME_MAX: Final = 34
"""Characters of a section's name; a PCI path is longer, and its end tells more."""
_WIDTH_IN: Final = 13.0


def draw(maps: Sequence[Map], title: str, path: Path) -> None:
    """Draw them.

    Raises:
        UsageError: no picture has that suffix.
        InfraError: matplotlib is missing, or the picture cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Patch

    rows = sorted(maps, key=lambda one: not one.broken)[:ROWS_MAX]
    named = len(rows) <= NAMED_ROWS
    canvas = Canvas(figsize=(_WIDTH_IN, 1.2 + len(rows) * (2.6 if named else 0.55)),
                    layout="constrained")  # fmt: skip
    panels = canvas.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, one in zip(panels, rows, strict=True):
        _draw_row(axes, one, named=named)
    panels[-1].set_xlabel("offset in the stream, bytes")
    seen = {kind for one in rows for kind in one.verdicts.values()}
    legend = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items() if kind in seen]
    if any(one.broken for one in rows):
        legend.append(Patch(color="black", label="breaks the expectation"))
    left_out = len(maps) - len(rows)
    canvas.suptitle(title + (f" ({left_out} more streams are not shown)" if left_out else ""),
                    fontsize=11)  # fmt: skip
    canvas.legend(handles=legend, loc="outside upper right", ncols=len(legend), fontsize=8)
    try:
        canvas.savefig(path, dpi=130)
    except OSError as error:
        raise InfraError(f"{path} cannot be written: {error.strerror}") from error


def _draw_row(axes: "Axes", one: Map, *, named: bool) -> None:
    stretches = list(one.stretches())
    # A single place of some hundred thousand is less than a dot; what is narrow is drawn on top.
    least = one.size / DOTS
    ends = [
        *(stretch.start for stretch in stretches[1:]),
        stretches[-1].end + 1 if stretches else 0,
    ]
    spans = [(end - stretch.start, stretch) for stretch, end in zip(stretches, ends, strict=False)]
    for width, stretch in sorted(spans, key=lambda span: -span[0]):
        axes.broken_barh(
            [(stretch.start, max(width, least))], (0, 1), facecolors=COLOURS[stretch.kind],
            linewidth=0,
        )  # fmt: skip
    if one.broken:
        axes.plot(
            sorted(one.wrong), [1.06] * len(one.wrong), "v", color="black",
            markersize=4, clip_on=False,
        )  # fmt: skip
    axes.set_xlim(0, one.size)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_title(f"{one.name}, {one.size:,} bytes", loc="left", fontsize=9, pad=12)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if named:
        _name(axes, one)


def _name(axes: "Axes", one: Map) -> None:
    """Names of the sections below the axis, pushed apart, with a line to where each begins."""
    gap = one.size * NAME_GAP
    room = int(1 / NAME_GAP)
    marks = list(one.marks)
    if len(marks) > room:
        marks = marks[:: -(-len(marks) // room)]
    places = [float(offset) for offset, _ in marks]
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + gap)
    last = float(one.size)
    for at in reversed(range(len(places))):
        last = places[at] = min(places[at], last)
        last -= gap
    for (offset, name), place in zip(marks, places, strict=True):
        axes.annotate(
            name if len(name) <= NAME_MAX else "…" + name[1 - NAME_MAX :],
            xy=(offset, 0), xytext=(place, -0.30), xycoords="data", textcoords="data",
            rotation=90, fontsize=5.5, ha="center", va="top", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "linewidth": 0.4, "color": "#666666", "relpos": (0.5, 1),
            },
        )  # fmt: skip
