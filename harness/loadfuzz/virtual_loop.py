"""An event loop whose time is virtual: when every task waits, it is the next moment at once.

Theory of operation.  A loop of asyncio asks its selector to wait until its next timer, and
runs what is due by its own ``time()``.  Here the selector does not wait: it moves that time
forward.  So everything in asyncio that has to do with time is virtual, ``sleep``,
``timeout``, ``wait_for``, ``call_later``, and none of it costs any; what runs when depends on
nothing but the program.  When no timer runs either, no task will ever go on: that is an
error, told at once, instead of a program that hangs.

What is outside knows nothing of that time, so it is given real time before the virtual moves
on: jobs in threads (``run_in_executor``, ``to_thread``) until they are done, and files and
sockets that somebody watches a moment, since the kernel may not have delivered yet.  A
thread of one's own is waited for when no timer runs.  Without any of these, as on the memory
transport, real time never enters.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

from loadfuzz.selecting import PassingSelector

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Args = TypeVarTuple("Args")

VIRTUAL_S_MAX: Final = 7_200.0
"""Virtual seconds of a loop: twice the longest silence that a plan can have.  What is not done
by then sleeps again and again and waits for nothing."""
LIMIT_S_MAX: Final = float(1 << 22)
"""Longest limit, 48 days: up to there a float tells moments a nanosecond apart, which is how
exactly asyncio compares them.  Beyond, a timer could be due and never run."""
CLEANUP_S_MAX: Final = 60.0
"""Virtual seconds more, for what cleans up when that time is over."""
GRACE_S: Final = 0.05
"""Real seconds in which the kernel delivers what was sent on this machine; usually it has
done so before the sender goes on, and only a busy one leaves it to a thread of its own."""
THREAD_S_MAX: Final = 0.5
"""Real seconds for a thread that nobody told us of, when everything waits for it."""
JOB_S_MAX: Final = 10.0
"""Real seconds for a job in a thread: who runs loaders has less patience than that."""
OWN_FILES: Final = 1
"""A loop watches a pipe of its own, by which other threads wake it."""


class StuckError(RuntimeError):
    """No task will ever go on, or the loop's time is over.

    Args:
        loop: in which they are.
        reason: which of the two.

    Attributes:
        waiting: the tasks that have not ended, each with its name and function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, reason: str) -> None:
        self.waiting = tuple(sorted(map(_told, asyncio.all_tasks(loop))))
        super().__init__(f"{reason}: {', '.join(self.waiting) or 'no task is left'}")


def _told(task: "asyncio.Task[object]") -> str:
    function = getattr(task.get_coro(), "__qualname__", "?")
    return f"{task.get_name()} in {function}"


class _Jumper(PassingSelector):
    """The platform's selector, which moves the time of its loop instead of waiting."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = limit_s
        self._watched = 0
        self._threads = threading.active_count()
        self.now_s = 0.0
        self.jobs = 0
        self.alarm: Callable[[str], BaseException] = RuntimeError

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See :meth:`selectors.BaseSelector.select`.

        Raises:
            BaseException: the alarm: nothing will ever come, or time is over.
        """
        outside = self._watched > OWN_FILES or self.jobs > 0
        if timeout is not None and timeout <= 0:
            return self._real.select(0) if outside else []
        if outside or timeout is None:
            ready = self._real.select(self._patience_s(timeout))
            if ready:
                return ready
        if timeout is None:
            raise self.alarm("every task waits, and nothing will wake one")
        if self.now_s + timeout > self._limit_s:
            over_s, self._limit_s = self._limit_s, self.now_s + CLEANUP_S_MAX
            raise self.alarm(f"not done after {over_s:g} virtual seconds")
        self.now_s += timeout
        return []

    def _patience_s(self, timeout: float | None) -> float:
        """Real seconds for what is outside."""
        if self.jobs > 0:
            return JOB_S_MAX
        if timeout is None and threading.active_count() > self._threads:
            return THREAD_S_MAX
        return GRACE_S if self._watched > OWN_FILES else 0.0

    def register(
        self, fileobj: "FileDescriptorLike", events: int, data: object = None
    ) -> selectors.SelectorKey:
        """See :meth:`selectors.BaseSelector.register`."""
        key = super().register(fileobj, events, data)
        self._watched += 1
        return key

    def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        """See :meth:`selectors.BaseSelector.unregister`."""
        key = super().unregister(fileobj)
        self._watched -= 1
        return key


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module.  Its time begins at 0.

    Args:
        limit_s: virtual seconds after which :class:`StuckError` is raised.
        stuck: makes what is raised instead, from the loop and the reason; it leaves
            ``run_until_complete``, and the tasks are left as they are.

    Raises:
        ValueError: the limit is above :data:`LIMIT_S_MAX`.
    """

    def __init__(
        self,
        *,
        limit_s: float = VIRTUAL_S_MAX,
        stuck: Callable[[asyncio.AbstractEventLoop, str], BaseException] = StuckError,
    ) -> None:
        self._jumper = _Jumper(limit_s)
        self._jumper.alarm = lambda reason: stuck(self, reason)
        super().__init__(self._jumper)
        if limit_s > LIMIT_S_MAX:
            self.close()
            raise ValueError(f"a loop has at most {LIMIT_S_MAX:g} virtual seconds, not {limit_s:g}")

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumper.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Args], T], *args: *Args
    ) -> "asyncio.Future[T]":
        """See :meth:`asyncio.loop.run_in_executor`; the time stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumper.jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """See :meth:`asyncio.loop.shutdown_default_executor`.

        Args:
            timeout: not heeded, since it would be virtual; threads have :data:`JOB_S_MAX`.
        """
        self._jumper.jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumper.jobs -= 1

    def _job_done(self, future: "asyncio.Future[T]") -> None:
        del future
        self._jumper.jobs -= 1


def run_virtual(main: Coroutine[object, object, T], *, limit_s: float = VIRTUAL_S_MAX) -> T:
    """What ``main`` comes to, run in a :class:`VirtualLoop` of its own.

    As with :func:`asyncio.run`, tasks that it leaves behind are cancelled.

    Args:
        main: the coroutine.
        limit_s: virtual seconds that it may take.

    Raises:
        StuckError: it waits for what never comes, or takes too long.
        BaseException: whatever it raises.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit_s=limit_s)) as runner:
        return runner.run(main)
