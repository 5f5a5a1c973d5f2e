"""Two processes, a guest, an operator and a network: one story from beginning to end.

Theory of operation.  The operator is like libvirt: a destination is started with ``-S`` unless
the scenario says otherwise, and when both sides' outcomes are known exactly one machine is
let run: the destination if it has all of the state, else the source, and the other one is
thrown away.  After every step of any task the promises that can be broken at any moment are
looked at; after every attempt, the others.  The first that is broken ends the story.  A story
whose last attempt failed goes on with one over a clean wire, which must succeed.

The guest is one task that lets every machine run for a moment that runs at all, so two
running machines are two running guests.
"""

from dataclasses import replace
from typing import Final

from loadfuzz.findings import Violation
from loadfuzz.simulation import promises
from loadfuzz.simulation.choices import ByteChoices
from loadfuzz.simulation.guest import tick
from loadfuzz.simulation.machines import Stable
from loadfuzz.simulation.operator import Operator
from loadfuzz.simulation.process import Move, Process
from loadfuzz.simulation.scenario import CLEAN, Act, Attempt, Scenario
from loadfuzz.simulation.scheduler import Gate, Scheduler, StuckError
from loadfuzz.simulation.story import Ending, Happening, Story
from savevm.machine import RunState
from savevm.trace import Trace

TICKS_MAX: Final = 48
"""Ticks of the guest in one attempt; behind them it idles.  An attempt may take hours of
virtual time, and the guest is not what is tested."""
LAST_TICKS: Final = 2
"""Ticks at the end of a story: the guest does run."""
EVENTS_MAX: Final = 1 << 16
"""Events that are remembered of a story."""


class _BrokenError(Exception):
    """A promise was broken."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.title)
        self.violation = violation


class _FooledError(Exception):
    """The network has invented an end of the stream, and two guests run: with a destination
    that starts by itself nothing can be done about it, and no promise is about it."""


def _check(violation: Violation | None) -> None:
    if violation is not None:
        raise _BrokenError(violation)


class World:
    """One story.

    Args:
        scenario: what it is made from.
        stable: machines; nobody else uses them meanwhile.
        trace: hears the first load, and how every attempt ends.

    Attributes:
        runner: the process with the guest, when all is over; ``None`` where it was lost.
    """

    def __init__(self, scenario: Scenario, stable: Stable, trace: Trace | None = None) -> None:
        self._scenario = scenario
        self._stable = stable
        self._trace = trace
        self._events: list[Happening] = []
        self._choices = ByteChoices(scenario.schedule, scenario.seed)
        self._scheduler = Scheduler(self._choices)
        self._operator = Operator(self._scheduler, self._hear, wants=not scenario.paused)
        self._slots = stable.slots(scenario.kind)
        self._taken = -1
        self._processes: list[Process] = []
        # Of each tick whether a migration ran: a device may leave its state alone then.
        self._ticks: list[bool] = []
        self._ticks_left = 0
        self._idle = Gate(self._scheduler)
        self._impatient = Gate(self._scheduler)
        self._endings: list[Ending] = []
        self._tainted = False
        self._move: Move | None = None
        self.runner: Process | None = None

    def run(self) -> Story:
        """Everything, to its end.

        Raises:
            BaseException: whatever leaves the migration, the loader or a device; no task is
                left then.
        """
        violations: tuple[Violation, ...] = ()
        try:
            try:
                self.runner = self._attempts()
            except StuckError as error:
                violations = (promises.stuck(error.tasks, endless=error.endless),)
            except _BrokenError as error:
                violations = (error.violation,)
            except _FooledError:
                pass
            if self._move is not None:
                # It was broken off, and is told as it was then.
                self._note(self._move)
        except BaseException:
            self._stable.forget()
            raise
        finally:
            self._scheduler.end_all()
        if self._scheduler.stubborn and not violations:
            violations = (promises.outlives(self._scheduler.stubborn),)
        if violations:
            # What is broken may be the machines themselves.
            self._stable.forget()
        lost = self.runner is None and not violations
        return Story(tuple(self._endings), violations, lost, tuple(self._events))

    # -- the story ----------------------------------------------------------------------------

    def _attempts(self) -> Process | None:
        scenario = self._scenario
        runner = self._process("source")
        if not scenario.paused:
            runner.machine.vm_start()
        else:
            runner.machine.vm_stop(RunState.PAUSED)
        self._processes = [runner]
        self._scheduler.spawn("guest", self._guest, background=True)
        self._scheduler.spawn("patience", self._patience, background=True)
        planned = scenario.attempts
        old: Process | None = None
        for number in range(1, len(planned) + 2):
            last = number > len(planned)
            if last and self._endings[-1].both:
                break
            again = replace(CLEAN, reuses=planned[-1].reuses)
            attempt = again if last else planned[number - 1]
            found, old = self._attempt(number, attempt, runner, old, last=last)
            if found is None:
                return None
            runner = found
        self._epilogue(runner)
        return runner

    def _attempt(
        self, number: int, attempt: Attempt, source: Process, old: Process | None, *, last: bool
    ) -> tuple[Process | None, Process | None]:
        """One attempt; whose the guest is then, and the destination where it waits still."""
        destination = old if old is not None and attempt.reuses else None
        if destination is None:
            destination = self._process(f"destination {number}", besides=source)
            # As -incoming leaves it until something comes.
            destination.machine.board.runstate = RunState.INMIGRATE
        self._processes = [source, destination]
        for process in self._processes:
            self._prepare(process, attempt)
        self._hear("operator", "migrate", number)
        move = self._move = Move(
            number, source, destination, attempt, self._scheduler, self._stable.parts, self._hear,
            self._trace if number == 1 else None,
        )  # fmt: skip
        self._ticks_left = TICKS_MAX
        self._idle.open()
        self._impatient.open()
        self._until_ended(move)
        self._move = None
        self._note(move)
        self._judge(move)
        if last:
            _check(promises.succeeds(move))
        waits = destination if destination.alive and not move.loaded else None
        runner = self._operator.settle(move)
        _check(promises.never_two(self._processes))
        _check(promises.one_runs(move, runner, wanted=self._operator.wants))
        if runner is destination and move.tainted:
            self._tainted = True
        if waits is not None and not waits.alive:
            waits = None
        return runner, waits

    def _until_ended(self, move: Move) -> None:
        scheduler = self._scheduler
        pair = (move.source, move.destination)
        while True:
            while move.acts and move.acts[0].step <= move.steps:
                self._operator.act(move, move.acts.pop(0))
            if move.ended:
                return
            move.count(scheduler.step())
            if move.stopped_ns >= 0:
                _check(promises.stands_still(move))
            if move.destination.running:
                if move.tainted and move.source.running:
                    # It was made to believe that it has all of the state; nobody can tell.
                    raise _FooledError
                _check(promises.never_two(pair))
                _check(promises.nobody_too_early(move))

    def _judge(self, move: Move) -> None:
        scheduler = self._scheduler
        tasks = [task.name for task in scheduler.tasks if not task.background]
        tasks += scheduler.stubborn
        _check(promises.outcomes(move))
        _check(promises.cancelled(move))
        _check(promises.same_state(move))
        _check(promises.nothing_left(move, tasks))
        kind = self._scenario.kind
        _check(promises.refused_unchanged(move, self._stable.twin(kind).machine))
        _check(promises.downtime(move, self._stable.device_bytes[kind]))

    def _epilogue(self, runner: Process) -> None:
        """The guest goes on for a while; then it is looked at."""
        machine = runner.machine
        _check(promises.paused_as_asked(machine, wanted=self._operator.wants))
        if self._operator.wants:
            for _ in range(LAST_TICKS):
                self._tick(runner)
        _check(promises.possible(machine))
        if not self._tainted:
            twin = self._stable.twin(self._scenario.kind).machine
            for migrating in self._ticks:
                twin.migration_is_running = migrating
                tick(twin, self._scenario.pace)
            _check(promises.as_its_twin(machine, twin))

    # -- tasks --------------------------------------------------------------------------------

    def _guest(self) -> None:
        period_ns = self._scenario.pace.period_ns
        scheduler = self._scheduler
        while True:
            if self._ticks_left <= 0:
                self._idle.wait("for the next attempt")
            # When a guest writes is nobody's to say: three quarters to five quarters of a period.
            scheduler.sleep(period_ns * (3 + self._choices.below(3)) // 4)
            for process in self._processes:
                if process.running:
                    self._tick(process)

    def _tick(self, process: Process) -> None:
        process.ran = True
        self._ticks.append(process.machine.migration_is_running)
        self._ticks_left -= 1
        tick(process.machine, self._scenario.pace)
        self._hear("guest", process.name, len(self._ticks))

    def _patience(self) -> None:
        """The operator does something about a migration that does not end."""
        last: Move | None = None
        while True:
            move = self._move
            if move is None or move is last:
                self._impatient.wait("for an attempt")
                continue
            last = move
            self._scheduler.sleep(move.attempt.patience_ns)
            # Meanwhile that attempt may have ended, and another one begun.
            if self._move is move:
                self._operator.act(move, Act(move.attempt.impatience, move.steps))

    # -- processes ----------------------------------------------------------------------------

    def _process(self, name: str, besides: Process | None = None) -> Process:
        """A new process; its machine is not that of the one before it, if it can be helped."""
        slots = self._slots
        while True:
            self._taken = (self._taken + 1) % len(slots)
            slot = slots[self._taken]
            if besides is None or besides.slot is not slot:
                break
        slot.renew()
        return Process(name, slot)

    def _prepare(self, process: Process, attempt: Attempt) -> None:
        machine = process.machine
        machine.suppress_vmdesc = not self._scenario.vmdesc
        if machine.ram is not None:
            machine.ram.xbzrle = self._scenario.xbzrle
            machine.ram.pages_per_iterate = attempt.pages_per_iterate

    # -- telling ------------------------------------------------------------------------------

    def _note(self, move: Move) -> None:
        source = move.outgoing.status.value if move.source.alive else "killed"
        destination = move.incoming.status.value if move.destination.alive else "killed"
        ending = Ending(
            source, destination, move.outgoing.error, move.incoming.error,
            tuple(move.pipe.struck), tuple(move.done), move.steps, move.pipe.sent,
            move.loaded and move.sent and move.destination.alive,
        )  # fmt: skip
        self._endings.append(ending)
        if self._trace is not None:
            self._trace(f"migration ends {source} {destination}")
            for what in (*(f.kind for f in ending.struck), *(act.deed for act in ending.done)):
                self._trace(f"migration meets {what}")

    def _hear(self, who: str, what: str, number: int) -> None:
        if len(self._events) < EVENTS_MAX:
            self._events.append((self._scheduler.now_ns, who, what, number))
