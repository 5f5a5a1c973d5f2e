"""The shortest fuzzing loop there is: mutate, load, judge, stop at the first alarm.

No corpus, no feedback, no folder: what a test or a machine without Atheris needs.
The same target, seed and number of executions give the same inputs every time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadfuzz.abc import Cost, Mutable, Oracle, Target, Trial
from loadfuzz.engines.judging import alarm_of
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Violation
from loadfuzz.inputs import STREAM_SIZE_MAX, Input
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.oracles import ALL
from loadfuzz.rng import Rng

DEAR_SHARE: Final = 64
"""Dear oracles look at one input in so many, beside the seeds."""

LOAD_TIMEOUT_S: Final = 2.0
"""CPU seconds after which a load counts as a hang."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """The input that rang an oracle.

    Attributes:
        stream: the input.
        violation: what the oracle said.
        executions: which input it was, from 1.
    """

    stream: bytes
    violation: Violation
    executions: int


def judge(trial: Trial, *, dear: bool, oracles: Sequence[Oracle] = ALL) -> Violation | None:
    """The first alarm about a trial.

    Args:
        trial: still current at its executor.
        dear: ask the dear oracles, too.
        oracles: which ones to ask.
    """
    for oracle in oracles:
        look = oracle.judge if dear or oracle.cost is Cost.CHEAP else oracle.quick
        if look is None:
            continue
        try:
            violation = look(trial)
        except SubjectError as error:
            violation = alarm_of(oracle, error)
        if violation is not None:
            return violation
    return None


def fuzz(
    target: Target,
    executions: int,
    seed: int,
    *,
    stopped: Callable[[int], bool] = lambda done: False,
) -> Alarm | None:
    """Load the target's seeds, then children of them, until an alarm.

    Args:
        target: what is fuzzed.
        executions: how many inputs at the most.
        seed: decides everything.
        stopped: somebody wants it to end; is given the number of inputs so far.

    Raises:
        InfraError: the target has no working loader.
        ValueError: it has no seeds.
    """
    streams = [item.stream for item in target.seeds()]
    if not streams:
        raise ValueError(f"target {target.name!r} has no seeds")
    rng = Rng(seed)
    stack, draws = MutationStack.of(target, rng.child("swarm")), rng.child("mutation")
    with Watchdog(LOAD_TIMEOUT_S) as watchdog:
        executor = InProcessExecutor(target, watchdog)
        for done in range(executions):
            if stopped(done):
                break
            dear = done < len(streams)
            if dear:
                stream = streams[done]
            else:
                # Drawn, not in turn: every so many inputs dear oracles look, which would
                # always be at children of the same streams.
                stream, donor = draws.choice(streams), draws.choice(streams)
                subject = Mutable(stream, executor.documents.places(stream), donor, STREAM_SIZE_MAX)
                stream, _ = stack.child(subject, draws)
                dear = done % DEAR_SHARE == 0
            violation = judge(executor.execute(Input(stream)), dear=dear)
            if violation is not None:
                return Alarm(stream, violation, done + 1)
    return None
