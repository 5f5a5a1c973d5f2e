"""The smallest part of a list that still does it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Holds: TypeAlias = Callable[[Sequence[T]], Awaitable[bool]]
"""Whether a part still does it; ``False``, too, when no more may be tried."""


def shrink_now(items: Sequence[T], holds: Callable[[Sequence[T]], bool]) -> list[T]:
    """The same as :func:`shrink` where deciding takes no waiting."""

    async def answer(part: Sequence[T]) -> bool:
        return holds(part)

    shrinking = shrink(items, answer)
    try:
        shrinking.send(None)
    except StopIteration as end:
        kept: list[T] = end.value
        return kept
    raise AssertionError("nothing in it waits")


async def shrink(items: Sequence[T], holds: Holds[T]) -> list[T]:
    """A part of ``items`` that holds and none of whose items can be left out.

    Zeller's ddmin: parts are tried first in halves, then in ever finer pieces, so that
    what is needed is found in few tries where it is little.  It asks at most some
    ``n * n`` times; whoever bounds the tries answers ``False`` from then on, and the
    result still holds.

    Args:
        items: they hold together; not asked again.
        holds: decides; a part keeps the order of ``items``.
    """
    kept = list(items)
    pieces = 2
    while len(kept) > 1:
        size = -(-len(kept) // pieces)
        smaller: list[T] | None = None
        for start in range(0, len(kept), size):
            part = kept[start : start + size]
            if len(part) < len(kept) and pieces == 2 and await holds(part):
                smaller, pieces = part, 2
                break
            rest = kept[:start] + kept[start + size :]
            if rest and len(rest) < len(kept) and pieces > 2 and await holds(rest):
                smaller, pieces = rest, max(pieces - 1, 2)
                break
        if smaller is not None:
            kept = smaller
        elif size == 1:
            break
        else:
            pieces = min(pieces * 2, len(kept))
    return kept
