"""Finds the shortest sequence of streams that makes a loader fail, and the fewest fields.

Theory of operation.  A loader that remembers may be damaged by one load and die of the
next.  So what failed is run again in fresh processes: the last stream alone; the one
before it with a good stream behind; both; then more and more of what was loaded before.
Of a sequence that does it again, streams are left out while it still does, and those
that may stay are replaced by the good stream.  Then each is compared with the seed it
came from, and differences are taken back while it still fails, until every one left
matters.  All of that is tried by running it; nothing is concluded.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from loadfuzz.abc import Executor, Format
from loadfuzz.clock import Clock
from loadfuzz.errors import InfraError
from loadfuzz.execution import Execution
from loadfuzz.mutation import Mutation
from loadfuzz.places import without_indices
from loadfuzz.triage.changes import combined, fewest
from loadfuzz.triage.shrinking import shrink
from loadfuzz.triage.symptom import Symptom, symptom_of

RUNS_MAX: Final = 400
"""Sequences run for one failure.  A field of thousands is found in some twenty."""

CONFIRMATIONS: Final = 5
"""Times that what was found is run for its reliability."""

JUDGED: Final = 1
"""The same where each takes seconds, as of a load that does not end; tracing it has run it
several times by then."""

FAILURES_MAX: Final = 3
"""Runs in a row that our machinery may spoil."""


_Fails: TypeAlias = Callable[[Sequence[bytes]], Awaitable[bool]]
"""Whether a sequence fails as it should."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stream of a sequence.

    Attributes:
        stream: what is loaded.
        seed: what it was made from; itself when it is a seed.
        changes: what tells the two apart, the last first: so each fits the stream that
            those before it have made of the seed.
    """

    stream: bytes
    seed: bytes
    changes: tuple[Mutation, ...] = ()


@dataclass(frozen=True, slots=True)
class Cause:
    """What a failure takes.

    Attributes:
        steps: streams to load in a fresh process, the last of which fails.
        closely: the last is looked at closely (:meth:`loadfuzz.abc.Executor.execute`).
        execution: how the last run of it ended.
        reliability: of (n) runs (k) failed so.
        runs: sequences that were run to find it.
    """

    steps: tuple[Step, ...]
    closely: bool
    execution: Execution
    reliability: tuple[int, int]
    runs: int


class Tracer:
    """Traces failures of one target back to what caused them.

    Args:
        target: parses.
        executor: of a process that nobody else uses.
        seeds: streams that the loader accepts, the first of them being the good one.
        clock: for the deadline.
        stopped: somebody wants us to end.
    """

    def __init__(
        self,
        target: Format,
        executor: Executor,
        seeds: Sequence[bytes],
        clock: Clock,
        stopped: Callable[[], bool],
    ) -> None:
        self._target = target
        self._executor = executor
        self._good = seeds[0]
        self._seeds = [target.parse(seed) for seed in seeds]
        self._clock = clock
        self._stopped = stopped
        self._deadline_s = 0.0
        self._runs = 0
        self._spoilt = 0
        self._seen: Execution | None = None

    async def trace(
        self,
        history: Sequence[bytes],
        execution: Execution,
        *,
        closely: bool,
        seconds: float,
        likely: Collection[str] = (),
        judge: Executor | None = None,
    ) -> Cause | None:
        """What it takes, ``None`` when it does not happen again.

        Args:
            history: what was loaded, the stream that failed being the last.
            execution: how that ended.
            closely: that was looked at closely.
            seconds: for all of it; what is found by then is what is returned.
            likely: fields, without indices, that were changed last: tried first.
            judge: runs what was found for its reliability, where it has more patience than
                who looked for it.

        Raises:
            InfraError: the target has no working loader any more.
        """
        self._deadline_s = self._clock.now_s() + seconds
        self._runs = 0
        self._seen = None
        wanted = symptom_of(execution)
        fails = partial(self._fails, wanted, closely)
        sequence = await self._sequence(history, fails)
        if sequence is None:
            return None
        steps = [Step(stream, stream) for stream in sequence]
        for at in range(len(steps)):
            steps[at] = await self._reduced(steps, at, fails, likely)
        streams = [step.stream for step in steps]
        shown = self._last_seen(execution)
        again = tries = 0
        wanted_tries = CONFIRMATIONS if judge is None else JUDGED
        for turn in range(wanted_tries):
            if turn and not self._may_go_on():
                break
            seen = await self._run(streams, closely=closely, executor=judge)
            if seen is None:
                continue
            tries += 1
            if symptom_of(seen) == wanted:
                again, shown = again + 1, seen
        return Cause(tuple(steps), closely, shown, (again, tries), self._runs)

    def _last_seen(self, otherwise: Execution) -> Execution:
        return otherwise if self._seen is None else self._seen

    async def _sequence(self, history: Sequence[bytes], fails: _Fails) -> list[bytes] | None:
        """The shortest sequence found, as short as it gets by leaving out."""
        last = list(history[-1:])
        good = [self._good]
        candidates = [last, [*history[-2:-1], *good], list(history[-2:]), last + good]
        candidates += [list(history[-4:]), list(history[-16:]), list(history)]
        tried: set[tuple[bytes, ...]] = set()
        for candidate in candidates:
            key = tuple(candidate)
            if key in tried or not candidate:
                continue
            tried.add(key)
            if await fails(candidate):
                break
        else:
            return None
        kept = candidate
        if len(kept) > 1:
            # Whatever trips over the damage stays the last.
            tail = kept[-1]

            async def still(part: Sequence[bytes]) -> bool:
                return await fails([*part, tail])

            kept = [*await shrink(kept[:-1], still), tail]
        for at, stream in enumerate(kept):
            if stream != self._good and len(kept) > 1:
                eased = [*kept[:at], self._good, *kept[at + 1 :]]
                if any(item != self._good for item in eased) and await fails(eased):
                    kept = eased
        return kept

    async def _reduced(
        self, steps: Sequence[Step], at: int, fails: _Fails, likely: Collection[str]
    ) -> Step:
        """Step ``at`` with no more differences from its seed than it takes."""
        stream = steps[at].stream
        seed, differences = fewest(self._seeds, self._target.parse(stream))
        base = seed.to_bytes()
        before = [step.stream for step in steps[:at]]
        behind = [step.stream for step in steps[at + 1 :]]

        async def holds(part: Sequence[Mutation]) -> bool:
            return await fails([*before, combined(base, part), *behind])

        if not differences:
            return Step(stream, base)
        guess = [change for change in differences if without_indices(change.path) in likely]
        if 0 < len(guess) < len(differences) and await holds(guess):
            differences = guess
        kept = await shrink(differences, holds)
        return Step(combined(base, kept), base, tuple(reversed(kept)))

    async def _fails(self, wanted: Symptom, closely: bool, streams: Sequence[bytes]) -> bool:
        if not self._may_go_on():
            return False
        seen = await self._run(streams, closely=closely)
        if seen is None or symptom_of(seen) != wanted:
            return False
        self._seen = seen
        return True

    def _may_go_on(self) -> bool:
        return (
            self._runs < RUNS_MAX and self._clock.now_s() < self._deadline_s and not self._stopped()
        )

    async def _run(
        self, streams: Sequence[bytes], *, closely: bool, executor: Executor | None = None
    ) -> Execution | None:
        """How the last of ``streams`` ends in a fresh process; ``None`` when it does not
        come so far, or nothing can be said."""
        self._runs += 1
        try:
            seen = await run_sequence(executor or self._executor, streams, closely=closely)
        except InfraError:
            self._spoilt += 1
            if self._spoilt > FAILURES_MAX:
                raise
            return None
        self._spoilt = 0
        return seen


async def run_sequence(
    executor: Executor, streams: Sequence[bytes], *, closely: bool
) -> Execution | None:
    """How the last of ``streams`` ends in a fresh process; ``None`` when an earlier one
    takes the process along.

    Args:
        executor: renewed first.
        streams: at least one.
        closely: look closely at what is accepted of the last.

    Raises:
        UsageError, InfraError: see :class:`loadfuzz.abc.Executor`.
    """
    await executor.renew()
    for stream in streams[:-1]:
        if (await executor.execute(stream)).kind.ends_process:
            return None
    return await executor.execute(streams[-1], closely=closely)
