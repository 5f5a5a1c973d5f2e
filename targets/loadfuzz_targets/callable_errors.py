"""What leaves a function: a refusal, or something that no loader may do."""

import asyncio
import re
from collections.abc import Callable, Iterator
from errno import ECANCELED, EIO, ETIMEDOUT
from typing import Final, TypeAlias

from loadfuzz.executors.watchdog import HangError
from loadfuzz_targets.callable_feeding import Feed
from loadfuzz_targets.idle_loop import place_of_hang
from savevm.errors import LoadError

GROUP_DEPTH_MAX: Final = 32
"""Exception groups within each other; a task group in a task group makes two."""
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
"""What ``repr`` says of an object's place in memory, which is another one each time."""

Refuses: TypeAlias = Callable[[BaseException], bool]


class TasksLeftError(Exception):
    """A load has failed, and tasks of it would still be running.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"the load failed and left {count} tasks behind")


def without_addresses(text: str, replacement: str = "") -> str:
    """``text`` as it is each time."""
    return _ADDRESS.sub(replacement, text)


def refuses_with(refusals: tuple[type[BaseException], ...], feed: Feed) -> Refuses:
    """Tells whether an exception refuses the stream cleanly.

    Beside what always does, that is an error of the transport which is passed on, a timeout
    of the loader's own where it was kept waiting, and the end of a task that was cancelled.

    Args:
        refusals: what always does.
        feed: what the load has met.
    """

    def refuses(error: BaseException) -> bool:
        if isinstance(error, refusals):
            return True
        match error:
            case OSError() if error.errno in feed.errnos:
                return True
            case TimeoutError():
                return feed.silent
            case asyncio.CancelledError():
                return feed.cancelled
            case _:
                return False

    return refuses


def as_refusal(error: BaseException) -> LoadError:
    """The same as the one exception that may leave a load."""
    if isinstance(error, LoadError):
        return error
    text = without_addresses(str(error), "0x…") or type(error).__name__
    match error:
        case asyncio.CancelledError():
            return LoadError("cancelled", errno=ECANCELED)
        case TimeoutError():
            return LoadError(text, errno=ETIMEDOUT)
        case OSError():
            return LoadError(text, errno=error.errno or EIO)
        case _:
            return LoadError(text)


def first_of(error: BaseException, refuses: Refuses) -> BaseException:
    """What an exception group is about: a hang, or else the first in it that is no refusal,
    or else the first.  What is no group is about itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error, GROUP_DEPTH_MAX))
    for leaf in leaves:
        if isinstance(leaf, HangError):
            return place_of_hang(leaf)
    return next((leaf for leaf in leaves if not refuses(leaf)), leaves[0])


def _leaves(error: BaseException, depth: int) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup) and depth:
        for inner in error.exceptions:
            yield from _leaves(inner, depth - 1)
    else:
        yield error
