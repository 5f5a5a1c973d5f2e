"""What a campaign was asked to do, complete before it starts."""

import os
from dataclasses import dataclass
from typing import Final

from loadfuzz.campaign.batch import DEAR_SHARE, LOAD_TIMEOUT_S, Engine
from loadfuzz.errors import UsageError

TIME_DEFAULT_S: Final = 60.0
"""Budget when none is given: long enough to see how it goes, short enough to wait for."""
TIME_MAX_S: Final = 366 * 86_400.0
"""Longest budget; beyond it timers of the event loop lose their precision."""
WORKERS_MAX: Final = 256
"""Most workers of one supervisor; one reads all their events."""
LOAD_TIMEOUT_MIN_S: Final = 0.05
"""Shortest limit of a load: below it the watchdog's ticks are too coarse to tell."""
LOAD_TIMEOUT_MAX_S: Final = 10.0
"""Longest: a worker confirms a hang several times over, and the supervisor must hear of it
before it takes the worker for stuck."""
SEED_BITS: Final = 63
"""Seeds fit into the signed 64-bit integers of every tool that may read them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One campaign.

    Attributes:
        target: name of the target.
        engine: what drives the executions; ``None`` for Atheris where it can
            be imported and the native engine elsewhere.
        seed: campaign seed, from which each worker's is derived.
        workers: worker processes.
        seconds: wall-clock budget, ``None`` for no limit.
        executions: budget in executions of all workers together, ``None`` for
            no limit.
        seeds: paths of files and directories to start from; the target's own
            when empty.
        load_timeout_s: CPU seconds after which one load counts as a hang.
        stale_s: end when nothing new was kept or found for so many seconds, ``None`` to go
            on.
        first_finding: end with the first finding that the folder did not have.
        dear_share, operators, ignore: as in :class:`~loadfuzz.campaign.batch.Batch`.
    """

    target: str
    engine: Engine | None
    seed: int
    workers: int
    seconds: float | None
    executions: int | None
    seeds: tuple[str, ...] = ()
    load_timeout_s: float = LOAD_TIMEOUT_S
    stale_s: float | None = None
    first_finding: bool = False
    dear_share: int = DEAR_SHARE
    operators: dict[str, int] | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= WORKERS_MAX:
            raise UsageError(f"--workers must be 1 to {WORKERS_MAX}, not {self.workers}")
        if self.seconds is not None and not 0 < self.seconds <= TIME_MAX_S:
            raise UsageError(f"--time must be more than 0 s and at most a year, not {self.seconds}")
        if self.executions is not None and self.executions < 1:
            raise UsageError(f"--execs must be 1 or more, not {self.executions}")
        if self.stale_s is not None and not 0 < self.stale_s <= TIME_MAX_S:
            raise UsageError(
                f"--until-stale must be more than 0 s and at most a year, not {self.stale_s}"
            )
        if not LOAD_TIMEOUT_MIN_S <= self.load_timeout_s <= LOAD_TIMEOUT_MAX_S:
            raise UsageError(
                f"--load-timeout must be {LOAD_TIMEOUT_MIN_S} s to {LOAD_TIMEOUT_MAX_S:.0f} s, "
                f"not {self.load_timeout_s}"
            )
        if not 0 <= self.seed < 1 << SEED_BITS:
            raise UsageError(f"--seed must be 0 to 2^{SEED_BITS} - 1, not {self.seed}")

    def share(self, worker: int) -> int | None:
        """Executions that are ``worker``'s part of the budget."""
        if self.executions is None:
            return None
        each, rest = divmod(self.executions, self.workers)
        return each + (worker < rest)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), WORKERS_MAX)
    return min(os.cpu_count() or 1, WORKERS_MAX)


def random_seed() -> int:
    """A campaign seed nobody has asked for before."""
    return int.from_bytes(os.urandom(4), "big")
