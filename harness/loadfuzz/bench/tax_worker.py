"""A worker that also loads each input barely, and says how long both took.

``python -m loadfuzz.bench.tax_worker BATCH.json PACKAGES``; prints one line of
JSON when the batch is done.  A bare load is the target's loader and nothing
else: same process, same instrumentation, same inputs, taken alternately with
the executions they are compared with.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loadfuzz import codec
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.events import Event, WorkerEnded

if TYPE_CHECKING:  # it imports the loader
    from loadfuzz.engines.session import Session


def _measuring_session() -> "tuple[type[Session], Callable[[], dict[str, float]]]":
    from loadfuzz.abc import Subject
    from loadfuzz.engines.lineage import Lineage
    from loadfuzz.engines.session import Session
    from loadfuzz.feedback.novelty import Observation
    from loadfuzz.inputs import WHOLE
    from savevm import LoadError

    totals = {"bare_s": 0.0, "executions": 0.0}
    start = time.perf_counter()

    class MeasuringSession(Session):
        bare: Subject | None = None

        def execute(self, stream: bytes, lineage: Lineage) -> Observation:
            seen = super().execute(stream, lineage)
            if self.bare is None:
                self.bare = self.target.open()
            began = time.perf_counter()
            with suppress(LoadError):
                self.bare.load(stream, WHOLE, None)
            totals["bare_s"] += time.perf_counter() - began
            totals["executions"] += 1
            return seen

    def report() -> dict[str, float]:
        return {**totals, "run_s": time.perf_counter() - start - totals["bare_s"]}

    return MeasuringSession, report


def main(arguments: Sequence[str]) -> int:
    """Entry point: a batch file and the packages to instrument, by commas."""
    batch = codec.decode(Path(arguments[0]).read_bytes(), Batch)
    from loadfuzz.engines.worker import import_instrumented, run_batch

    if batch.engine is Engine.ATHERIS:
        import_instrumented(batch.target, arguments[1].split(","))
    session_type, report = _measuring_session()

    def emit(event: Event) -> None:
        if isinstance(event, WorkerEnded):
            sys.stdout.write(json.dumps(report()) + "\n")
            sys.stdout.flush()

    run_batch(batch, emit, session_type=session_type)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
