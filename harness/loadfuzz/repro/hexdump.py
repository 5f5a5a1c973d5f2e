"""Which bytes of a stream were changed, and a small picture of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from loadfuzz.mutation import Mutation

ROW: Final = 16
"""Bytes per line: what every hexdump has, and fits 80 columns."""
CONTEXT_ROWS: Final = 1
"""Lines shown before and behind a change."""
ROWS_MAX: Final = 12
"""Lines shown of one picture; a change may be as large as the stream."""


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes of the child that a mutation left there.

    Attributes:
        start, end: where they are in the child; equal when bytes were removed.
        removed: how many bytes of the parent were there before.
    """

    start: int
    end: int
    removed: int


def changes(mutations: Iterable[Mutation]) -> list[Change]:
    """Where the changes of all mutations ended up in the last child, ascending.

    A place that a later mutation changed again counts once, as part of that
    one.
    """
    known: list[Change] = []
    for mutation in mutations:
        fresh: list[Change] = []
        moved = known
        # From behind, so that positions of what is before stay good.
        for item in reversed(mutation.splices):
            grown = len(item.replacement) - (item.end - item.start)
            start, end = item.start, item.start + len(item.replacement)
            kept: list[Change] = []
            for old in moved:
                if old.start < item.end and item.start < old.end:
                    # Overlapping: what is left of the old change joins the new one.
                    start = min(start, old.start)
                    end = max(end, old.end + grown)
                elif old.start >= item.end:
                    kept.append(Change(old.start + grown, old.end + grown, old.removed))
                else:
                    kept.append(old)
            moved = kept
            fresh = [Change(c.start + grown, c.end + grown, c.removed) for c in fresh]
            fresh.append(Change(start, end, item.end - item.start))
        known = _merged(moved + fresh)
    return known


def _merged(found: list[Change]) -> list[Change]:
    result: list[Change] = []
    for change in sorted(found, key=lambda change: (change.start, change.end)):
        if result and change.start < result[-1].end:
            last = result.pop()
            change = Change(last.start, max(last.end, change.end), last.removed + change.removed)
        result.append(change)
    return result


def picture(stream: bytes, marked: Sequence[tuple[int, int]]) -> list[str]:
    """Lines of a hexdump round the marked bytes, each mark under its bytes.

    Args:
        stream: what to show.
        marked: ranges of offsets, ascending; an empty range is marked as a gap.
    """
    wanted: set[int] = set()
    last = max(len(stream) - 1, 0) // ROW
    for start, end in marked:
        first_row = max(start // ROW - CONTEXT_ROWS, 0)
        last_row = min(max(end - 1, start) // ROW + CONTEXT_ROWS, last)
        wanted.update(range(first_row, min(last_row, first_row + ROWS_MAX) + 1))
    lines: list[str] = []
    previous = -1
    for row in sorted(wanted)[:ROWS_MAX]:
        if previous >= 0 and row != previous + 1:
            lines.append("   ...")
        previous = row
        lines.append(_row(stream, row))
        if (under := _marks(row, len(stream), marked)).strip():
            lines.append(under)
    if len(wanted) > ROWS_MAX:
        lines.append("   ...")
    return lines


def _row(stream: bytes, row: int) -> str:
    piece = stream[row * ROW : (row + 1) * ROW]
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
    return f"   {row * ROW:06x}  {piece.hex(' '):<{3 * ROW - 1}}  {text}"


def _marks(row: int, size: int, marked: Sequence[tuple[int, int]]) -> str:
    cells = [" "] * (3 * ROW)
    for start, end in marked:
        for offset in range(max(start, row * ROW), min(end, (row + 1) * ROW, size)):
            column = 3 * (offset - row * ROW)
            cells[column : column + 2] = "^^"
        if start == end and start // ROW == row:
            cells[3 * (start % ROW)] = "|"
    return f"   {'':6}  {''.join(cells)}".rstrip()
