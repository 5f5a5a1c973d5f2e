"""A coroutine whose task is cancelled when it waits for the n-th time."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import TypeVar

T = TypeVar("T")


class CancelledAt(Generator[object, object, T], Coroutine[object, object, T]):
    """``coroutine``, in whose task somebody calls :meth:`asyncio.Task.cancel` in time.

    To be the whole of a task (``run_until_complete``, ``TaskGroup.create_task``).  The
    coroutine hears of it where it waits, as of any cancellation, and may do with it what it
    likes.  Suspensions are those of the task: each time that it gives way to the event loop.

    Args:
        coroutine: what the task does.
        when: told the number of each suspension, from 0; true to cancel there.

    Attributes:
        coroutine: the same.
        suspensions: how many there were so far.
    """

    __slots__ = ("_when", "coroutine", "suspensions")

    def __init__(
        self, coroutine: Coroutine[object, object, T], when: Callable[[int], bool]
    ) -> None:
        self.coroutine = coroutine
        self.suspensions = 0
        self._when = when

    def send(self, value: object) -> object:
        """See :meth:`collections.abc.Coroutine.send`."""
        __tracebackhide__ = True
        return self._suspended(self.coroutine.send(value))

    def throw(self, error: BaseException, /, *_: object) -> object:  # type: ignore[override]
        """See :meth:`collections.abc.Coroutine.throw`; tasks throw exceptions, no classes."""
        __tracebackhide__ = True
        return self._suspended(self.coroutine.throw(error))

    def close(self) -> None:
        """See :meth:`collections.abc.Coroutine.close`."""
        self.coroutine.close()

    def __await__(self) -> Generator[object, object, T]:
        return self

    def _suspended(self, asked: object) -> object:
        """``asked`` is what it waits for; a task that is cancelled before it gets that cancels
        it in turn."""
        number, self.suspensions = self.suspensions, self.suspensions + 1
        if self._when(number):
            task = asyncio.current_task()
            if task is not None:
                task.cancel()
        return asked
