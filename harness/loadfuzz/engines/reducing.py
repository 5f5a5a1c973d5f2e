"""Takes back what an input of a finding need not have: faults first, then changed fields.

Theory of operation.  An input that rings an alarm is the last of a line of mutants; most of
what tells it from a good stream does not matter.  So it is compared with the seed it came
from, field by field, and differences are left out while the same alarm still rings, until
every one that is left matters.  All of that is tried by running it, in a loader of its own.

What each try costs, the oracle decides.  So there are bounds on tries, by count and by a share
of the worker's executions, which a campaign repeats; where the budget is one of time, by a
share of that, too.  An input that takes too much time or memory is never reduced, and a try
that does so is the last.

A loader in our own process may take it along.  Whoever takes its place finds noted what was
being reduced, and keeps that as it is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from loadfuzz.abc import Target, Trial
from loadfuzz.campaign.batch import Batch
from loadfuzz.clock import Clock, SystemClock
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import Lineage
from loadfuzz.execution import Execution
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.faults.reducing import reduced as with_fewest_faults
from loadfuzz.feedback.novelty import OVERRUNS
from loadfuzz.findings import Violation
from loadfuzz.inputs import Input
from loadfuzz.mutation import Mutation
from loadfuzz.storage import write_atomic
from loadfuzz.triage.changes import changes, combined, fewest, nearest
from loadfuzz.triage.shrinking import shrink_now

RUNS_MAX: Final = 200
"""Tries for one finding; a handful of fields takes some ten, one of a hundred some twenty."""

RUNS_FIRST: Final = 4000
"""Tries that a worker has to begin with: those of some hundred findings."""

RUNS_SHARE: Final = 8
"""Then it may try one for so many of its executions."""

SECONDS_MAX: Final = 10.0
"""Longest reduction of one input, where the budget is one of time."""

SECONDS_FIRST: Final = 20.0
"""Seconds of it that a worker has to begin with, there."""

SECONDS_SHARE: Final = 8
"""Then reducing takes one in so many of its seconds, there."""

SEEDS_LOOKED_AT: Final = 2
"""Seeds, those most like the input, of which the differences are found out; each takes a parse."""

CHANGES_MAX: Final = 64
"""With more differences than this from every seed an input is compared with the stream it was
made from: it came from something else than a seed of this campaign."""

NOTED_MAX: Final = 100
"""Signatures whose reduction has ended a process that are remembered."""

NOTE_FILE: Final = "reducing"
"""What a worker is reducing, in its folder, a signature a line."""

Rings: TypeAlias = Callable[[Trial], Violation | None]
"""The alarm of a trial if it is the wanted one; raises :class:`SubjectError` when finding that
out has taken too much time or memory."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """What is left of an input.

    Attributes:
        input: rings the same alarm.
        parent: what it is told apart from; ``None`` where nothing is.
        mutations: what tells the two apart, the last first: so each fits the stream that
            those before it have made of the parent.
        violation, execution: of the try that showed it.
    """

    input: Input
    parent: bytes | None
    mutations: tuple[Mutation, ...]
    violation: Violation
    execution: Execution


class Reducer:
    """Reduces the findings of one worker.

    Args:
        batch: of the worker.
        target: what is fuzzed.
        open_executor: makes an executor with loaders of its own.
        seeds: gives the streams that people or the target gave; asked once.
        last_input: is told what is run, so that a death is blamed on it.
        clock: for the budget in seconds.
        interrupted: asked before each try whether to end; is given the number of tries.
    """

    def __init__(
        self,
        batch: Batch,
        target: Target,
        open_executor: Callable[[], InProcessExecutor],
        seeds: Callable[[], Sequence[bytes]],
        last_input: LastInput | None = None,
        clock: Clock | None = None,
        interrupted: Callable[[int], bool] = lambda tries: False,
    ) -> None:
        self._batch = batch
        self._target = target
        self._open_executor = open_executor
        self._ask_seeds = seeds
        self._seeds: Sequence[bytes] | None = None
        self._last_input = last_input
        self._clock = clock or SystemClock()
        self._start_s = self._clock.now_s()
        self._interrupted = interrupted
        self._runs = 0
        self._spent_s = 0.0
        self._note = Path(batch.out) / f"worker-{batch.worker}" / NOTE_FILE
        self._deadly: list[str] | None = None

    def reduce(
        self, item: Input, lineage: Lineage, signature: str, rings: Rings, executions: int
    ) -> Reduced | None:
        """What is left of ``item``, ``None`` if nothing could be taken back.

        Args:
            item: rings the alarm; its load took neither too much time nor too much memory.
            lineage: of its stream.
            signature: of the alarm.
            rings: whether a trial rings it.
            executions: of the worker so far.

        Raises:
            InfraError: the target has no working loader any more.
        """
        if self._deadly is None:
            self._deadly = self._noted()
        if signature in self._deadly or not self._affords(executions):
            return None
        start_s = self._clock.now_s()
        self._write_note([*self._deadly, signature])
        tries = _Tries(
            self._open_executor(), rings, lambda count: self._may_go_on(count, start_s),
            self._batch.load_timeout_s, self._last_input, executions,
        )  # fmt: skip
        try:
            self._try(item, lineage, tries)
        finally:
            self._runs += tries.count
            self._spent_s += self._clock.now_s() - start_s
            if self._last_input is not None:
                # What is judged is the input itself again.
                self._last_input.begin(item.stream, executions + 1)
                self._last_input.loaded()
            self._write_note(self._deadly)
        return tries.best

    def _try(self, item: Input, lineage: Lineage, tries: "_Tries") -> None:
        if item.faults:
            plan = with_fewest_faults(
                item.faults,
                lambda plan: tries.ring(
                    replace(item, faults=plan), lineage.parent, lineage.mutations
                ),
            )
            item = replace(item, faults=plan)
        base, differences = self._compared(item.stream, lineage)
        if not differences:
            return

        def holds(part: Sequence[Mutation]) -> bool:
            smaller = replace(item, stream=combined(base, part))
            return tries.ring(smaller, base if part else None, tuple(reversed(part)))

        if holds(()):
            return  # the good stream does it by itself
        kept = shrink_now(differences, holds)
        if len(kept) == len(differences) and not _says_more(lineage, base, differences):
            # Nothing could be left out, but now it is told by fields.
            holds(kept)

    def _compared(self, stream: bytes, lineage: Lineage) -> tuple[bytes, Sequence[Mutation]]:
        """A stream to tell this one apart from, and the differences; none where nothing is
        known of it."""
        if self._seeds is None:
            self._seeds = self._ask_seeds()
        seeds, parent = self._seeds, lineage.parent
        if stream in seeds:
            return stream, ()
        parse = self._target.parse
        tree = parse(stream)
        wanted = nearest(seeds, stream)[:SEEDS_LOOKED_AT]
        if parent is not None and (parent in seeds or not wanted):
            wanted = [parent]
        if not wanted:
            return stream, ()
        base, found = fewest([parse(one) for one in wanted], tree)
        if len(found) <= CHANGES_MAX or parent is None or parent in wanted:
            return base.to_bytes(), found
        return parent, changes(parse(parent), tree)

    def _affords(self, executions: int) -> bool:
        if self._runs >= RUNS_FIRST + executions // RUNS_SHARE:
            return False
        if self._batch.executions is not None:
            return True
        elapsed_s = self._clock.now_s() - self._start_s
        return self._spent_s < SECONDS_FIRST + elapsed_s / SECONDS_SHARE

    def _may_go_on(self, tries: int, start_s: float) -> bool:
        if tries >= RUNS_MAX or self._interrupted(tries):
            return False
        batch = self._batch
        if batch.executions is not None:
            return True  # a clock would make it another run each time
        now_s = self._clock.now_s()
        left_s = SECONDS_MAX if batch.seconds is None else self._start_s + batch.seconds - now_s
        return now_s - start_s < SECONDS_MAX and left_s > 0

    def _noted(self) -> list[str]:
        try:
            return self._note.read_text("utf-8", "replace").splitlines()[-NOTED_MAX:]
        except OSError:
            return []

    def _write_note(self, signatures: Sequence[str]) -> None:
        lines = "".join(f"{line}\n" for line in signatures)
        write_atomic(self._note, lines.encode("utf-8", "replace"), durable=False)


class _Tries:
    """The tries for one input.

    Attributes:
        count: how many there were.
        best: of those that rang the last, which is the smallest.
    """

    def __init__(
        self,
        executor: InProcessExecutor,
        rings: Rings,
        may_go_on: Callable[[int], bool],
        cpu_s_max: float,
        last_input: LastInput | None,
        executions: int,
    ) -> None:
        self._executor = executor
        self._rings = rings
        self._may_go_on = may_go_on
        self._cpu_s_max = cpu_s_max
        self._last_input = last_input
        self._executions = executions
        self._over = False
        self.count = 0
        self.best: Reduced | None = None

    def ring(self, item: Input, parent: bytes | None, mutations: tuple[Mutation, ...]) -> bool:
        """Whether ``item`` rings the alarm; ``False`` when nothing may be tried any more."""
        if self._over or not self._may_go_on(self.count):
            return False
        self.count += 1
        if self._last_input is not None:
            self._last_input.begin(item.stream, self._executions + 1)
        start_s = time.process_time()
        trial = self._executor.execute(item)
        if self._last_input is not None:
            self._last_input.loaded()
        if trial.execution.kind in OVERRUNS:
            self._over = True
            return False
        try:
            violation = self._rings(trial)
        except SubjectError:
            self._over = True
            return False
        # Loads that an oracle asks for may hang as well.
        self._over = time.process_time() - start_s >= self._cpu_s_max
        if violation is None:
            return False
        self.best = Reduced(trial.input, parent, mutations, violation, trial.execution)
        return True


def _says_more(lineage: Lineage, base: bytes, differences: Sequence[Mutation]) -> bool:
    """Whether the records of what was done tell more than those of what is different."""
    mutations = lineage.mutations
    return (
        lineage.parent == base
        and len(mutations) <= len(differences)
        and all(mutation.path for mutation in mutations)
    )
