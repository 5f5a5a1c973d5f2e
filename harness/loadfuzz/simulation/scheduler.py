"""Cooperative tasks in virtual time, in an order that is chosen.

Theory of operation.  Each task is a greenlet, so plain synchronous code, the migration of
the reference, can wait in the midst of anything.  Whoever drives calls :meth:`Scheduler.step`
again and again: it picks one of the tasks that could run now, and runs it until it waits.
Only when nobody could run does time pass, up to the next moment that anybody sleeps for.

Tasks are kept in lists and in the order in which they became ready; nothing depends on
identities, hashes or a clock, so the same choices give the same order of events.
"""

from collections.abc import Callable
from enum import StrEnum
from heapq import heappop, heappush
from typing import Final

from greenlet import GreenletExit, getcurrent, greenlet

from loadfuzz.simulation.choices import Choices

STEPS_MAX: Final = 50_000
"""Steps of one scheduler.  A story of three migrations takes some hundreds to some thousands;
one that takes more goes round in circles without time passing."""
TASKS_MAX: Final = 64
"""Tasks at once.  A story has five; a leak should be seen early."""
KILLS_MAX: Final = 4
"""Times that a task is told to end.  One that swallows its end as often is left behind."""


class State(StrEnum):
    """What a task does."""

    READY = "ready"
    WAITING = "waiting"
    SLEEPING = "sleeping"
    ENDED = "ended"


class StuckError(Exception):
    """Nobody can go on.

    Attributes:
        tasks: those that wait, each with what for.
        endless: steps were taken, more than :data:`STEPS_MAX`, without an end.
    """

    def __init__(self, tasks: tuple[str, ...], *, endless: bool) -> None:
        what = f"no end after {STEPS_MAX} steps" if endless else "nobody can go on"
        super().__init__(f"{what}: {'; '.join(tasks)}")
        self.tasks = tasks
        self.endless = endless


class Task:
    """One thread of control.

    Attributes:
        name: unique among those of a story at one time.
        background: it goes on for ever; nobody waits for it, and it keeps nothing going.
        state: what it does.
        waits_for: what, while it waits.
        killed: it was told to end.
    """

    __slots__ = ("_greenlet", "_wake", "background", "killed", "name", "state", "waits_for")

    def __init__(
        self, name: str, run: Callable[[], None], hub: greenlet, *, background: bool
    ) -> None:
        self.name = name
        self.background = background
        self.state = State.READY
        self.waits_for = ""
        self.killed = False
        self._greenlet = greenlet(run, hub)
        self._wake = 0

    @property
    def ended(self) -> bool:
        """Whether it has returned or was killed."""
        return self.state is State.ENDED

    def __str__(self) -> str:
        return f"{self.name} {self.state} {self.waits_for}".rstrip()


class Scheduler:
    """Runs tasks; see the module.  Whoever makes it drives it.

    Args:
        choices: decides who runs next where several could.

    Attributes:
        now_ns: virtual time.
        tasks: those that have not ended, in the order in which they were spawned.
        stubborn: names of tasks that were killed and would not end.
        steps: taken so far.
    """

    def __init__(self, choices: Choices) -> None:
        self.now_ns = 0
        self.tasks: list[Task] = []
        self.stubborn: list[str] = []
        self.steps = 0
        self._choices = choices
        self._ready: list[Task] = []
        self._sleepers: list[tuple[int, int, int, Task]] = []
        self._number = 0
        self._current: Task | None = None
        self._killed: Task | None = None
        # Tasks wait by switching to whoever drives; spawned by a task, they still do.
        self._hub = getcurrent()

    # -- for whoever drives ------------------------------------------------------------------

    def spawn(self, name: str, run: Callable[[], None], *, background: bool = False) -> Task:
        """A task that begins with one of the next steps.

        Raises:
            RuntimeError: there are :data:`TASKS_MAX` already.
        """
        if len(self.tasks) >= TASKS_MAX:
            raise RuntimeError(f"more than {TASKS_MAX} tasks: who spawns them does not end them")
        task = Task(name, run, self._hub, background=background)
        self.tasks.append(task)
        self._ready.append(task)
        return task

    def step(self) -> Task:
        """Let one task run until it waits; time passes first if it has to.

        Returns:
            The task that ran; it may have ended.

        Raises:
            StuckError: all that could go on are in the background, or it takes too long.
            BaseException: whatever leaves the task, which has then ended.
        """
        if self.steps >= STEPS_MAX:
            raise StuckError(self._waiting(), endless=True)
        self.steps += 1
        ready = self._ready
        if not ready:
            self._pass_time()
        task = ready.pop(self._choices.below(len(ready)) if len(ready) > 1 else 0)
        self._current = task
        try:
            task._greenlet.switch()
        finally:
            self._current = None
            if task._greenlet.dead:
                self._end(task)
        return task

    def kill(self, task: Task) -> bool:
        """End a task where it is.  It cannot wait any more; whether it has ended.

        Not to be called from inside a task.

        Raises:
            BaseException: whatever the task raises in place of ending.
        """
        task.killed = True
        if task in self._ready:
            self._ready.remove(task)
        self._killed = task
        try:
            for _ in range(KILLS_MAX):
                if task._greenlet.dead:
                    break
                task._greenlet.throw(GreenletExit)
        finally:
            self._killed = None
            self._end(task)
        if not task._greenlet.dead:
            self.stubborn.append(task.name)
        return task._greenlet.dead

    def end_all(self) -> tuple[str, ...]:
        """Kill every task; names of those that would not end."""
        return tuple(task.name for task in tuple(self.tasks) if not self.kill(task))

    # -- for tasks -----------------------------------------------------------------------------

    def sleep(self, ns: int) -> None:
        """The present task goes on in ``ns`` nanoseconds, or just later for 0.

        Raises:
            GreenletExit: it is killed meanwhile.
        """
        task = self._entered()
        if ns > 0:
            self._sleep_until(task, self.now_ns + ns)
        else:
            task.state = State.READY
            self._ready.append(task)
        self._hub.switch()

    def wait(self, gate: "Gate", what: str) -> None:
        """The present task goes on when ``gate`` is opened.

        Raises:
            GreenletExit: it is killed meanwhile.
        """
        task = self._entered()
        task.state = State.WAITING
        task.waits_for = what
        gate.waiting.append(task)
        self._hub.switch()

    def wake(self, task: Task) -> None:
        """A task that waits or sleeps could run now; another is left as it is."""
        if task.state in (State.WAITING, State.SLEEPING):
            task.state = State.READY
            task.waits_for = ""
            task._wake += 1
            self._ready.append(task)

    # -- inside ----------------------------------------------------------------------------------

    def _entered(self) -> Task:
        task = self._current
        if task is None:
            if self._killed is not None and getcurrent() is self._killed._greenlet:
                raise GreenletExit  # while it is being killed it wants to wait
            raise RuntimeError("only a task of this scheduler can wait")
        return task

    def _sleep_until(self, task: Task, due_ns: int) -> None:
        task.state = State.SLEEPING
        self._number += 1
        heappush(self._sleepers, (due_ns, self._number, task._wake, task))

    def _pass_time(self) -> None:
        sleepers = self._sleepers
        if not any(not task.background and task.state is State.SLEEPING for task in self.tasks):
            raise StuckError(self._waiting(), endless=False)
        while sleepers and not self._ready:
            self.now_ns = max(self.now_ns, sleepers[0][0])
            while sleepers and sleepers[0][0] <= self.now_ns:
                _, _, wake, task = heappop(sleepers)
                # A task that was woken meanwhile may sleep again, for something else.
                if task.state is State.SLEEPING and task._wake == wake:
                    self.wake(task)

    def _end(self, task: Task) -> None:
        if task.state is not State.ENDED:
            task.state = State.ENDED
            self.tasks.remove(task)

    def _waiting(self) -> tuple[str, ...]:
        return tuple(str(task) for task in self.tasks if not task.background)


class Gate:
    """What tasks wait at until somebody opens it; it is closed again at once."""

    __slots__ = ("_scheduler", "waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.waiting: list[Task] = []

    def wait(self, what: str) -> None:
        """Wait until it is opened; see :meth:`Scheduler.wait`."""
        self._scheduler.wait(self, what)

    def open(self) -> None:
        """Let all go on that wait."""
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            self._scheduler.wake(task)
