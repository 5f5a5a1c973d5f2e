"""What tells a stream from the seed it came from, field by field.

A stream may be the last of a long line of mutants.  What was done to it on the way
does not matter for a report; what is different now does.  So the two trees are
compared, and each difference is a record that can be applied alone or with others.
"""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Final

from loadfuzz.mutation import Mutation, Splice, splice
from savevm.document import Document, Node

OPERATOR: Final = "difference"
"""Operator of these records: nobody knows any more which one it was."""

LEAVES_MAX: Final = 4000
"""Leaves aligned where lengths differ, beside those that both streams begin and end with; so
many take a second or two.  Beyond that a difference is one piece of bytes."""

SHOWN_MAX: Final = 32
"""Bytes of a value that a record shows to people."""


def changes(seed: Document, stream: Document) -> list[Mutation]:
    """The differences, in order; applied together they make ``stream`` of ``seed``.

    Args:
        seed: tree of the seed.
        stream: tree of what became of it.
    """
    old, new = seed.to_bytes(), stream.to_bytes()
    if old == new:
        return []
    found = _in_place(seed, new) if len(old) == len(new) else _aligned(seed, stream)
    if combined(old, found) != new:
        found = [_whole(old, new)]
    return found


def combined(seed: bytes, differences: Iterable[Mutation]) -> bytes:
    """``seed`` with some of its differences.

    Raises:
        ValueError: they are not of this seed.
    """
    return splice(seed, splices_of(differences))


def splices_of(differences: Iterable[Mutation]) -> tuple[Splice, ...]:
    """All splices of some differences, in the order of the seed."""
    return tuple(sorted(
        (item for difference in differences for item in difference.splices),
        key=lambda item: (item.start, item.end),
    ))  # fmt: skip


def _in_place(seed: Document, new: bytes) -> list[Mutation]:
    old = seed.to_bytes()
    found: list[Mutation] = []
    for leaf in seed.leaves():
        if old[leaf.start : leaf.end] != new[leaf.start : leaf.end]:
            found += _of_leaf(leaf, old, new)
    return found


def _of_leaf(leaf: Node, old: bytes, new: bytes) -> list[Mutation]:
    """Differences within one leaf: of an array the elements, of a buffer the part."""
    width = leaf.element_size
    if width and leaf.size > width:
        return [
            _record(f"{leaf.path}[{(at - leaf.start) // width}]", old, at, at + width,
                    new[at : at + width])
            for at in range(leaf.start, leaf.end, width)
            if old[at : at + width] != new[at : at + width]
        ]  # fmt: skip
    if leaf.size <= SHOWN_MAX:
        return [_record(leaf.path, old, leaf.start, leaf.end, new[leaf.start : leaf.end])]
    start, end = _differing(old[leaf.start : leaf.end], new[leaf.start : leaf.end])
    start, end = leaf.start + start, leaf.start + end
    return [_record(leaf.path, old, start, end, new[start:end])]


def _differing(old: bytes, new: bytes) -> tuple[int, int]:
    """Range of the bytes that differ, of two strings of one length."""
    numbers = [at for at, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    return numbers[0], numbers[-1] + 1


def _aligned(seed: Document, stream: Document) -> list[Mutation]:
    old, new = seed.to_bytes(), stream.to_bytes()
    before, behind = list(seed.leaves()), list(stream.leaves())
    # What both begin and end with needs no search, which takes the square of what it is given.
    limit = min(len(before), len(behind))
    first = next((at for at in range(limit) if _content(old, before[at]) != _content(
        new, behind[at])), limit)  # fmt: skip
    last = next((at for at in range(limit - first) if _content(old, before[-1 - at]) != _content(
        new, behind[-1 - at])), limit - first)  # fmt: skip
    ours, theirs = before[first : len(before) - last], behind[first : len(behind) - last]
    if len(ours) > LEAVES_MAX or len(theirs) > LEAVES_MAX:
        return [_whole(old, new)]
    matcher = SequenceMatcher(
        None,
        [_content(old, leaf) for leaf in ours],
        [_content(new, leaf) for leaf in theirs],
        autojunk=False,
    )
    found: list[Mutation] = []
    for tag, left, right, low, high in matcher.get_opcodes():
        if tag == "equal":
            continue
        left, right = left + first, right + first
        start = before[left].start if left < len(before) else len(old)
        end = before[right - 1].end if right > left else start
        replacement = b"".join(_content(new, leaf) for leaf in theirs[low:high])
        if max(end - start, len(replacement)) > SHOWN_MAX:
            start, end, replacement = _trimmed(old, start, end, replacement)
            while left + 1 < right and before[left].end <= start:
                left += 1
        place = before[left] if left < len(before) else before[-1]
        found.append(_record(place.path, old, start, end, replacement))
    return found


def _trimmed(old: bytes, start: int, end: int, new: bytes) -> tuple[int, int, bytes]:
    """A difference without what is the same at its start and its end."""
    limit = min(end - start, len(new))
    before = next((at for at in range(limit) if old[start + at] != new[at]), limit)
    room = limit - before
    behind = next((at for at in range(room) if old[end - 1 - at] != new[-1 - at]), room)
    return start + before, end - behind, new[before : len(new) - behind]


def _content(stream: bytes, leaf: Node) -> bytes:
    return stream[leaf.start : leaf.end]


def _whole(old: bytes, new: bytes) -> Mutation:
    """One difference: what is not common at the start nor at the end."""
    return _record("", old, *_trimmed(old, 0, len(old), new))


def _record(path: str, old: bytes, start: int, end: int, replacement: bytes) -> Mutation:
    return Mutation(
        OPERATOR, path, (Splice(start, end, replacement),), _shown(old[start:end]),
        _shown(replacement),
    )  # fmt: skip


def _shown(value: bytes) -> str:
    if len(value) > SHOWN_MAX:
        return f"{value[:SHOWN_MAX].hex(' ')}... ({len(value)} bytes)"
    if len(value) in (1, 2, 4, 8):
        return f"{int.from_bytes(value, 'big'):#x}"
    return value.hex(" ")


def nearest(seeds: Iterable[bytes], stream: bytes) -> list[bytes]:
    """The seeds, those first that have most bytes where ``stream`` has them, counted from
    either end.  That takes no parse, and finds the seed of a mutant nearly always."""
    return sorted(seeds, key=lambda seed: (-_alike(seed, stream), abs(len(seed) - len(stream))))


def _alike(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    different = int.from_bytes(one[:size]) ^ int.from_bytes(other[:size])
    if len(one) == len(other):
        return different.to_bytes(size).count(0)
    before = size - (different.bit_length() + 7) // 8
    tail = int.from_bytes(one[len(one) - size :]) ^ int.from_bytes(other[len(other) - size :])
    behind = ((tail & -tail).bit_length() - 1) // 8 if tail else size
    return min(before + behind, size)


def fewest(seeds: Sequence[Document], stream: Document) -> tuple[Document, list[Mutation]]:
    """The seed that ``stream`` has the fewest differences from, and these.

    Args:
        seeds: at least one.
        stream: what became of one of them.
    """
    best: tuple[Document, list[Mutation]] | None = None
    # Of one length first: there comparing is cheap, and mostly it is the one.
    for seed in sorted(seeds, key=lambda seed: abs(seed.size - stream.size)):
        if best is not None and best[0].size == stream.size != seed.size:
            break
        found = changes(seed, stream)
        if best is None or len(found) < len(best[1]):
            best = seed, found
    assert best is not None, "at least one seed"
    return best
