"""Which bytes of a stream were changed, and a small picture of them."""

from collections.abc import Iterable, Sequence
from typing import Final

from loadfuzz.mutation import Mutation, Splice, splice

ROW: Final = 16
"""Bytes per line: what every hexdump has, and fits 80 columns."""
CONTEXT_ROWS: Final = 1
"""Lines shown before and behind a change."""
ROWS_OF_ONE_MAX: Final = 5
"""Lines shown of one change; it may be as large as the stream."""
ROWS_MAX: Final = 24
"""Lines shown of one picture."""


_WRITTEN: Final = 1
_REMOVED: Final = 2


def changed(
    mutations: Iterable[Mutation], parent_size: int, *, only: int | None = None
) -> list[tuple[int, int]]:
    """Which bytes of the last child were written by any of the mutations.

    Args:
        mutations: in order.
        parent_size: of the stream that the first one was applied to, in bytes.
        only: number, from 0, of the one mutation whose bytes are wanted; ``None`` for all.

    Returns:
        Ranges of offsets, ascending; an empty range is where bytes were removed.

    Raises:
        ValueError: a mutation was recorded for another parent.
    """
    # A stream beside the stream: it is spliced alike, and says of each byte what happened.
    # One more byte at its end, for what was removed there.
    marks = bytes(parent_size + 1)
    for number, mutation in enumerate(mutations):
        wanted = only is None or number == only
        written = bytes([_WRITTEN if wanted else 0])
        if any(item.end >= len(marks) for item in mutation.splices):
            raise ValueError("a splice does not fit its parent")
        marks = splice(marks, [
            Splice(item.start, item.end, written * len(item.replacement))
            for item in mutation.splices
        ])  # fmt: skip
        grown = 0
        noted = bytearray(marks)
        for item in mutation.splices:
            if wanted and not item.replacement and item.end > item.start:
                noted[item.start + grown] |= _REMOVED
            grown += len(item.replacement) - (item.end - item.start)
        marks = bytes(noted)
    return _ranges(marks)


def _ranges(marks: bytes) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    start = -1
    for offset, mark in enumerate(marks):
        if mark & _WRITTEN:
            start = offset if start < 0 else start
            continue
        if start >= 0:
            result.append((start, offset))
            start = -1
        elif mark & _REMOVED:
            result.append((offset, offset))
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
        wanted.update(range(first_row, min(last_row, first_row + ROWS_OF_ONE_MAX - 1) + 1))
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
