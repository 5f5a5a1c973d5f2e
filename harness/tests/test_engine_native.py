"""Our own loop: what it breeds from."""

from collections import Counter
from pathlib import Path

from loadfuzz.campaign.batch import Batch, BatchResult, Engine
from loadfuzz.engines.account import Account
from loadfuzz.engines.lineage import Lineage
from loadfuzz.engines.native import AVOIDED_MAX, NativeEngine
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.feedback.novelty import Observation
from loadfuzz.plugins import load_target
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus

REFERENCE = load_target("reference")
SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
EXECUTIONS = 300


class Recorder(Account):
    """Runs nothing: every input shows something new, and one in so many does not end."""

    def __init__(self, out: Path, endless: int) -> None:
        batch = Batch("reference", Engine.NATIVE, str(out), 0, 1, None, EXECUTIONS)
        super().__init__(batch, REFERENCE, lambda event: None, lambda: False)
        self.endless: set[bytes] = set()
        self.parents: Counter[bytes] = Counter()
        self.avoided = 0
        self.avoid_all = False
        self._every = endless

    def run(self, stream: bytes, lineage: Lineage) -> Observation:
        if lineage.parent is not None:
            self.parents[lineage.parent] += 1
        number = self.tally.executions
        execution = Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=(f"event {number}",))
        if number % self._every == 0:
            self.endless.add(stream)
            hang = Escape("HangError", "", (f"loader.py:loop_{number}:1",))
            execution = Execution(ExitKind.TIMED_OUT, Depth.NOTHING, escape=hang)
        self.tally.count(execution)
        return self.novelty.observe(execution)

    def observe(self, stream: bytes) -> Observation:
        raise AssertionError("all came from outside")

    def avoids(self, child: bytes, lineage: Lineage) -> bool:
        self.avoided += self.avoid_all
        return self.avoid_all

    def fault(self, doing: str, error: BaseException) -> None:
        raise AssertionError(doing) from error

    def result(self, reason: str) -> BatchResult:
        raise AssertionError(f"nobody asks what it came to: {reason}")


def run(out: Path, endless: int, *, avoid_all: bool = False) -> Recorder:
    corpus = Corpus(out / "corpus")
    corpus.folder.mkdir()
    for name in ("none-ran", "cpu-ran", "small-ran", "ram-ran"):
        corpus.add(SEEDS[name])
    recorder = Recorder(out, endless)
    recorder.avoid_all = avoid_all
    assert NativeEngine(recorder, Rng(1)).run() == "budget"
    return recorder


def test_nothing_is_bred_from_what_does_not_end(tmp_path: Path) -> None:
    recorder = run(tmp_path, endless=3)
    assert len(recorder.endless) == EXECUTIONS // 3
    assert any(stream in recorder.endless for stream in SEEDS.values())
    assert set(recorder.parents) - set(SEEDS.values())
    assert not recorder.endless & set(recorder.parents)
    kept = Corpus(tmp_path / "corpus")
    streams = {kept.read(digest) for digest in kept.digests()}
    assert not (streams - set(SEEDS.values())) & recorder.endless


def test_when_no_seed_ends_they_are_bred_from_all_the_same(tmp_path: Path) -> None:
    recorder = run(tmp_path, endless=1)
    assert set(recorder.parents) <= set(SEEDS.values())
    assert sum(recorder.parents.values()) == EXECUTIONS - 4


def test_of_children_that_had_better_not_be_run_one_in_so_many_is(tmp_path: Path) -> None:
    recorder = run(tmp_path, endless=1000, avoid_all=True)
    assert recorder.avoided == AVOIDED_MAX * (EXECUTIONS - 4)
