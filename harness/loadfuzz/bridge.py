"""Plain synchronous code that waits for a coroutine without being one.

The native engine is a loop of plain calls, and a loader in another process is spoken
to with asyncio; the reference's loader is plain code, too, and its stream may come over an
asyncio transport.  A greenlet lets the one wait for the other, as QEMU's own loader runs
in a stackful coroutine: :func:`drive` runs a function, and wherever that calls
:func:`wait`, however deep, the task that drives it awaits in its place.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")


def wait(awaitable: Awaitable[T]) -> T:
    """What ``awaitable`` comes to; only to be called by what :func:`drive` runs.

    Raises:
        RuntimeError: nobody drives this.
        BaseException: whatever the awaitable raises; cancellation, too.
    """
    parent = getcurrent().parent
    if parent is None:
        raise RuntimeError("wait() was called outside of drive()")
    return cast("T", parent.switch(awaitable))


async def drive(function: Callable[[], T]) -> T:
    """Run ``function`` in the present task, and await what it waits for.

    When the task is cancelled, or the coroutine closed, the function hears of it where it
    waits: :func:`wait` raises there, and the function unwinds.  It is over when this is.

    Raises:
        BaseException: whatever the function raises.
    """
    runner = greenlet(function)
    asked = runner.switch()
    while not runner.dead:
        try:
            value = await asked
        except BaseException as error:
            asked = runner.throw(error)
        else:
            asked = runner.switch(value)
    return cast("T", asked)
