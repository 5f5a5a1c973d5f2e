"""The tax of fuzzing: executions against bare loads of the same inputs."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.bench.results import Figure
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.errors import InfraError
from loadfuzz.plugins import load_target
from loadfuzz.storage import Corpus

GOAL: Final = 0.4
_DEADLINE_S: Final = 900.0
_TARGET: Final = "reference"


def measure(executions: int) -> list[Figure]:
    """A run of each engine that is installed, one worker each.

    By the wall clock: where a CPU timer runs, as our watchdog does, some kernels
    move the CPU clock in ticks longer than a load.  Both sides are taken
    alternately, so what else the machine does slows both.
    """
    engines = [Engine.NATIVE]
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("Atheris is not installed: only the native engine is measured", file=sys.stderr)
    else:
        engines.append(Engine.ATHERIS)
    return [_measure(engine, executions) for engine in engines]


def _measure(engine: Engine, executions: int) -> Figure:
    target = load_target(_TARGET)
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        out = Path(name)
        (out / "corpus").mkdir()
        corpus = Corpus(out / "corpus")
        for seed in target.seeds():
            corpus.add(seed.stream)
        batch = Batch(_TARGET, engine, name, 0, 1, None, executions)
        (out / "batch.json").write_bytes(codec.encode(batch))
        done = subprocess.run(
            [
                sys.executable, "-m", "loadfuzz.bench.tax_worker", str(out / "batch.json"),
                ",".join(target.instrument),
            ],
            capture_output=True, text=True, timeout=_DEADLINE_S, check=False,
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise InfraError(f"the measured {engine} run failed: {done.stderr[-500:]}")
    seen = json.loads(lines[-1])
    run, bare = (seen["executions"] / seen[key] for key in ("run_s", "bare_s"))
    return Figure(
        f"run-{engine}", run, "execs/s", bare, run / bare, GOAL,
        "bare loads of the same inputs in the same process",
    )  # fmt: skip
