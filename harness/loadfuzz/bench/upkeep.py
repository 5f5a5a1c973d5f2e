"""What mutating and judging an input cost beside loading it.

A run of the native engine in this process, in which three things are timed by the
wall clock: making a child, loading it, and asking the oracles about it (with all
the loads that the dear ones make).
"""

import tempfile
import time
from pathlib import Path
from typing import Final

from loadfuzz.bench.results import Figure
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import Lineage
from loadfuzz.engines.native import NativeEngine
from loadfuzz.engines.session import Session
from loadfuzz.executors.watchdog import SUSPICION_SHARE, Watchdog
from loadfuzz.feedback.novelty import Observation
from loadfuzz.oracles import ALL
from loadfuzz.plugins import load_target
from loadfuzz.repro.folder import write_finding
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus

GOAL: Final = 1.0
_TARGET: Final = "reference"
_SEED: Final = 1


class TimedSession(Session):
    """A session that says where the time goes.

    Attributes:
        load_s: in loads of the inputs themselves.
        judge_s: in oracles.
    """

    load_s = 0.0
    judge_s = 0.0

    def execute(self, stream: bytes, lineage: Lineage) -> Observation:
        """As always, and timed."""
        start = time.perf_counter()
        seen = super().execute(stream, lineage)
        self.load_s += time.perf_counter() - start
        return seen

    def judge_pending(self) -> None:
        """As always, and timed."""
        start = time.perf_counter()
        super().judge_pending()
        self.judge_s += time.perf_counter() - start


def measure(executions: int) -> list[Figure]:
    """Microseconds an input, in a run of so many executions."""
    target = load_target(_TARGET)
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        out = Path(name)
        (out / "corpus").mkdir()
        corpus = Corpus(out / "corpus")
        for seed in target.seeds():
            corpus.add(seed.stream)
        batch = Batch(_TARGET, Engine.NATIVE, name, 0, _SEED, None, executions)
        watchdog = Watchdog(batch.load_timeout_s / SUSPICION_SHARE)
        with LastInput(out, batch) as last_input, watchdog:
            session = TimedSession(
                batch, target, ALL, lambda event: None, write_finding, watchdog, last_input,
                lambda: False,
            )  # fmt: skip
            engine = NativeEngine(session, Rng(_SEED))
            start = time.perf_counter()
            engine.run()
            total_s = time.perf_counter() - start
    each = 1e6 / max(session.tally.executions, 1)
    load, judge = session.load_s * each, session.judge_s * each
    rest = total_s * each - load - judge
    return [
        Figure(
            "mutate-and-judge", rest + judge, "us/input", load, load / (rest + judge), GOAL,
            f"loading it and noticing what it did; oracles take {judge:,.0f}, all else {rest:,.0f}",
        )
    ]  # fmt: skip
