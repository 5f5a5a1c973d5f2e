"""What one trial is, and what it comes to, as data that travels between processes."""

from dataclasses import dataclass
from typing import Final

from loadfuzz.bench.bugs.meetings import Meeting, united

LOAD_TIMEOUT_S: Final = 0.2
"""CPU seconds after which a load counts as a hang: planted hangs are met again and
again, and a good load takes milliseconds."""


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """One worker of one trial.

    Attributes:
        target: name of the target with known bugs.
        fuzzer: who makes the inputs.
        seed: of all randomness.
        worker: index among the workers of the trial.
        seconds: wall-clock budget, ``None`` for no bound.
        executions: budget in executions, ``None`` for no bound.
        until_all: end as soon as every bug is detected.
        out: folder of the trial; workers of one trial share its corpus.
        load_timeout_s: CPU seconds after which a load counts as a hang.
        packages: what Atheris instruments.
    """

    target: str
    fuzzer: str
    seed: int
    worker: int
    seconds: float | None
    executions: int | None
    until_all: bool
    out: str
    load_timeout_s: float = LOAD_TIMEOUT_S
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What one worker came to.

    Attributes:
        executions: done.
        seconds: it took.
        features: behaviours that feedback tells apart.
        meetings: every known bug.
    """

    executions: int
    seconds: float
    features: int
    meetings: tuple[Meeting, ...]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one trial came to.

    Attributes:
        fuzzer: who made the inputs.
        number: of the trial, from 0.
        seed: of its randomness.
        executions, features: of its workers, added up and the greatest.
        seconds: of its slowest worker.
        meetings: every known bug, by whichever worker met it first.
    """

    fuzzer: str
    number: int
    seed: int
    executions: int
    seconds: float
    features: int
    meetings: tuple[Meeting, ...]

    @property
    def reached(self) -> int:
        """Bugs reached."""
        return sum(meeting.reached is not None for meeting in self.meetings)

    @property
    def triggered(self) -> int:
        """Bugs triggered."""
        return sum(meeting.triggered is not None for meeting in self.meetings)

    @property
    def detected(self) -> int:
        """Bugs detected."""
        return sum(meeting.detected is not None for meeting in self.meetings)


def trial_of(fuzzer: str, number: int, seed: int, workers: list[WorkerResult]) -> TrialResult:
    """A trial from the results of its workers, of which there is one at least."""
    return TrialResult(
        fuzzer,
        number,
        seed,
        sum(worker.executions for worker in workers),
        max(worker.seconds for worker in workers),
        max(worker.features for worker in workers),
        tuple(united(same) for same in zip(*(worker.meetings for worker in workers), strict=True)),
    )
