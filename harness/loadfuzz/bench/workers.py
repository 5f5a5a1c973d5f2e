"""What a second worker brings, and what the supervisor costs.

Whole campaigns as ``loadfuzz run`` has them, of one worker and of two in turn, each worker
with the same number of executions.  The supervisor runs in this process, so its CPU time is
this process's.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.abc import Reporter
from loadfuzz.bench.results import Figure
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.folder import open_folder
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.supervisor import Supervisor
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import SystemClock
from loadfuzz.reporters.ndjson import EventLog
from loadfuzz.reporters.stats import StatsFiles

GOAL: Final = 1.85
SUPERVISOR_MAX: Final = 5.0
"""Per cent of a core that the supervisor may use for each worker."""
TURNS: Final = 2
_TARGET: Final = "reference"
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class _Run:
    """One campaign.

    Attributes:
        rate: executions per second.
        supervisor: CPU seconds of the supervisor for each second and worker.
    """

    rate: float
    supervisor: float


def measure(executions: int) -> list[Figure]:
    """Rates of campaigns of one and of two workers with so many executions a worker."""
    alone: list[_Run] = []
    both: list[_Run] = []
    for turn in range(TURNS):
        alone.append(_run(1, executions, turn))
        both.append(_run(2, executions, turn))
    one, two = max(run.rate for run in alone), max(run.rate for run in both)
    share = 100 * min(run.supervisor for run in both)
    return [
        Figure(
            "two-workers", two, "execs/s", one, two / one, GOAL,
            f"a campaign of one worker; the best of {TURNS} each",
        ),
        Figure(
            "supervisor", share, "% of a core a worker", SUPERVISOR_MAX, SUPERVISOR_MAX / share,
            1.0, "what it may use",
        ),
    ]  # fmt: skip


def _run(workers: int, executions: int, turn: int) -> _Run:
    settings = Settings(_TARGET, Engine.NATIVE, _SEED + turn, workers, None, workers * executions)
    totals, clock = Totals(), SystemClock()
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        folder = open_folder(Path(name) / "campaign", _TARGET)
        reporters: list[Reporter] = [
            EventLog(folder.events),
            StatsFiles(folder.path, totals, clock),
        ]
        supervisor = Supervisor(settings, folder, reporters, totals, clock=clock)
        with folder.locked(settings):
            start_s = time.process_time()
            asyncio.run(supervisor.run())
            used_s = time.process_time() - start_s
    ended = totals.ended
    assert ended is not None, "it ran to its end"
    return _Run(ended.executions / ended.seconds, used_s / ended.seconds / workers)
