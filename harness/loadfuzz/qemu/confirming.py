"""Trying again what broke a promise, and keeping it whatever comes of that.

A finding's folder is written once and never changed, and it says how often the finding showed
again.  So it is tried again first and written behind that; but what is tried again has just
shown that it can go wrong, and whoever watches may lose patience.  Hence one guard for both:
trouble of ours is no answer and counts as no try, and however the tries end, what was found is
kept, with what is known by then.
"""

import contextlib
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from typing import Final

from loadfuzz.errors import LoadfuzzError
from loadfuzz.findings import Violation

RERUNS: Final = 3
"""How often what broke a promise is tried again: enough to tell always from sometimes, and
still less than what the next findings need."""


def news(
    violations: Iterable[Violation], known: Container[str], room: int
) -> tuple[Violation, ...]:
    """Those whose signature is not known yet, each once, and ``room`` at most."""
    fresh: dict[str, Violation] = {}
    for violation in violations:
        if violation.signature not in known:
            fresh.setdefault(violation.signature, violation)
    return tuple(fresh.values())[: max(room, 0)]


async def confirm(
    found: Sequence[Violation],
    again: Callable[[], Awaitable[Sequence[Violation]]],
    is_like: Callable[[Violation, Violation], bool],
    keep: Callable[[Violation, tuple[int, int]], None],
) -> None:
    """Try it :data:`RERUNS` times again, and keep each finding exactly once.

    Cancellation, and whatever else ends the tries, keeps them all the same.

    Args:
        found: what broke a promise; when there is nothing, nothing is tried.
        again: has it happen once more; what was broken then.
        is_like: whether two of them are one and the same.
        keep: gets each with its reliability: of (n) tries that came to an answer, (k) showed
            it again.

    Raises:
        LoadfuzzError: ``keep`` did, over one; the others were kept before.
    """
    if not found:
        return
    tries = 0
    times = [0] * len(found)
    with contextlib.ExitStack() as whatever_comes:

        def keep_at(place: int) -> None:
            keep(found[place], (times[place], tries))

        for place in reversed(range(len(found))):
            whatever_comes.callback(keep_at, place)
        for _ in range(RERUNS):
            try:
                others = await again()
            except LoadfuzzError:
                continue
            tries += 1
            for place, violation in enumerate(found):
                times[place] += any(is_like(other, violation) for other in others)
