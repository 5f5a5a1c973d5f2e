"""What is taken back of an input of a finding, what is not, and when it ends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import pytest
from msgspec import structs

from loadfuzz.abc import Trial
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.clock import ManualClock
from loadfuzz.engines.last_input import LastInput, describe_death
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.native import NativeEngine
from loadfuzz.engines.reducing import (
    NOTE_FILE,
    RUNS_FIRST,
    RUNS_MAX,
    RUNS_SHARE,
    SECONDS_FIRST,
    SECONDS_MAX,
    Reduced,
    Reducer,
)
from loadfuzz.engines.session import Session
from loadfuzz.events import Event, FindingAnnounced, Progress
from loadfuzz.execution import Escape, ExitKind
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.kinds import FaultKind, Layer
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, at_byte
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Delivery, Input, Seed
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.oracles import ALL
from loadfuzz.plugins import load_target
from loadfuzz.repro.folder import read_finding, write_finding
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, seeds_of
from savevm.document import Document
from savevm.trace import Trace

REFERENCE = load_target("reference")
SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
SEED = SEEDS["full-device-state-only"]
TREE = REFERENCE.parse(SEED)
EXECUTIONS = 400
"""Enough for the bug to be found, and an input of it to be reduced."""
SIGNATURE = "clean-error:KeyError"


def edited(*paths: str, base: bytes = SEED) -> bytes:
    """The seed with other values of these fields."""
    for path in paths:
        node = TREE.find(path)
        flipped = bytes(byte ^ 0x5A for byte in base[node.start : node.end])
        base = base[: node.start] + flipped + base[node.end :]
    return base


def differs(stream: bytes, path: str) -> bool:
    node = TREE.find(path)
    return stream[node.start : node.end] != SEED[node.start : node.end]


class Subject:
    """Fails where all of ``needs`` differ from the seed, and a reset strikes if it is to;
    hangs where ``hangs`` differs."""

    layers = frozenset(Layer)

    def __init__(self, needs: Sequence[str], hangs: str, resets: bool) -> None:
        self._needs = needs
        self._resets = resets
        self._hangs = hangs
        self._struck: tuple[Fault, ...] = ()

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        while self._hangs and differs(stream, self._hangs):
            pass
        if self._resets and not self._struck:
            return
        if all(differs(stream, path) for path in self._needs):
            raise KeyError("as it was told")

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        self._struck = tuple(one for one in faults.faults if one.kind is FaultKind.RESET)
        try:
            self.load(stream, delivery, trace)
        finally:
            self._struck = ()

    def struck(self) -> Sequence[Fault]:
        return self._struck

    def reset(self) -> None: ...

    def digest(self) -> str:
        return ""

    def save(self) -> bytes:
        return SEED

    def check_invariants(self) -> list[str]:
        return []

    def step(self, count: int) -> None: ...


@dataclass
class Bench:
    """A reducer of a loader with one bug, and what it does."""

    folder: Path
    watchdog: Watchdog
    needs: Sequence[str] = ("cpu/pc", "hpet/config")
    hangs: str = ""
    resets: bool = False
    seeds_: Sequence[bytes] = (SEED, SEEDS["full-ran"], SEEDS["none-ran"])
    executions: int | None = 1000
    clock: ManualClock = field(default_factory=ManualClock)
    run: list[bytes] = field(default_factory=list)
    tick_s: float = 0.0
    name = "fields"
    summary = "fails where fields differ"
    instrument = ("loadfuzz",)

    def open(self) -> Subject:
        return Subject(self.needs, self.hangs, self.resets)

    def seeds(self) -> list[Seed]:
        return []

    def parse(self, stream: bytes) -> Document:
        return REFERENCE.parse(stream)

    def rings(self, trial: Trial) -> Violation | None:
        self.run.append(trial.input.stream)
        self.clock.advance(self.tick_s)
        if trial.execution.kind is not ExitKind.CRASHED:
            return None
        return Violation("clean-error", "it failed", "no failure", "a failure", "KeyError")

    def reducer(self) -> Reducer:
        batch = Batch(
            self.name, Engine.NATIVE, str(self.folder), 0, 1, None, self.executions,
            load_timeout_s=5.0,
        )  # fmt: skip
        (self.folder / "worker-0").mkdir(exist_ok=True)
        return Reducer(
            batch, self, lambda: InProcessExecutor(self, self.watchdog), lambda: self.seeds_,
            clock=self.clock,
        )  # fmt: skip

    def reduce(
        self, stream: bytes, lineage: Lineage = NO_LINEAGE, faults: FaultPlan = NO_FAULTS
    ) -> Reduced | None:
        return self.reducer().reduce(
            Input(stream, faults=faults), lineage, SIGNATURE, self.rings, 0
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Watchdog(0.2) as watchdog:
        yield Bench(tmp_path, watchdog)


def change(path: str, operator: str = "field-integer") -> Mutation:
    node = TREE.find(path)
    new = edited(path)[node.start : node.end]
    return Mutation(operator, path, (Splice(node.start, node.end, new),))


def test_of_many_changed_fields_those_that_matter_stay(bench: Bench) -> None:
    # The parent is a mutant itself, and has the half of it.
    parent = edited("cpu/pc", "intc/irr", "hpet/isr")
    stream = edited("hpet/config", "cpu/lcg", base=parent)
    reduced = bench.reduce(stream, Lineage(parent, (change("hpet/config"), change("cpu/lcg"))))
    assert reduced is not None
    assert reduced.input.stream == edited("cpu/pc", "hpet/config")
    assert reduced.parent == SEED
    assert {mutation.path for mutation in reduced.mutations} == {"cpu/pc", "hpet/config"}
    assert apply(reduced.mutations, SEED) == reduced.input.stream
    assert reduced.execution.kind is ExitKind.CRASHED
    assert reduced.violation.title == "it failed"


def test_what_was_cut_and_put_in_is_taken_back_too(bench: Bench) -> None:
    bench.needs = ("cpu/pc",)
    end = len(SEED) - 1
    stream = edited("cpu/pc")[:end] + b"\1\2\3" + SEED[end:]
    reduced = bench.reduce(stream)
    assert reduced is not None
    assert reduced.input.stream == edited("cpu/pc")


def test_where_nothing_can_be_left_out_the_records_of_operators_stay(bench: Bench) -> None:
    lineage = Lineage(SEED, (change("cpu/pc"), change("hpet/config")))
    assert bench.reduce(edited("cpu/pc", "hpet/config"), lineage) is None
    assert bench.run[0] == SEED
    assert len(bench.run) == 3


def test_a_change_of_raw_bytes_is_told_by_its_field(bench: Bench) -> None:
    bench.needs = ("cpu/pc",)
    raw = Mutation("raw-number", "", change("cpu/pc").splices)
    reduced = bench.reduce(edited("cpu/pc"), Lineage(SEED, (raw,)))
    assert reduced is not None
    assert reduced.input.stream == edited("cpu/pc")
    assert [mutation.path for mutation in reduced.mutations] == ["cpu/pc"]


def test_a_seed_that_does_it_by_itself_has_no_changes(bench: Bench) -> None:
    bench.needs = ()
    reduced = bench.reduce(edited("cpu/pc"), Lineage(SEED, (change("cpu/pc"),)))
    assert reduced is not None
    assert (reduced.input.stream, reduced.parent, reduced.mutations) == (SEED, None, ())


def test_without_a_seed_the_parent_is_what_it_is_told_apart_from(bench: Bench) -> None:
    bench.seeds_ = ()
    parent = edited("cpu/pc")
    stream = edited("hpet/config", "intc/irr", base=parent)
    lineage = Lineage(parent, (change("hpet/config"), change("intc/irr")))
    reduced = bench.reduce(stream, lineage)
    assert reduced is not None
    assert reduced.parent == parent
    assert [mutation.path for mutation in reduced.mutations] == ["hpet/config"]
    assert bench.reduce(stream) is None
    bench.seeds_ = (SEED,)
    assert bench.reduce(SEED) is None


def test_faults_are_taken_back_before_fields(bench: Bench) -> None:
    bench.needs, bench.resets = ("cpu/pc",), True
    reset = Fault.of(FaultKind.RESET, at_byte(0))
    plan = FaultPlan((Fault.of(FaultKind.STALL, at_byte(3)), reset))
    stream = edited("cpu/pc", "cpu/lcg")
    reduced = bench.reduce(stream, Lineage(SEED, (change("cpu/pc"), change("cpu/lcg"))), plan)
    assert reduced is not None
    assert reduced.input.faults == FaultPlan((reset,))
    assert reduced.input.stream == edited("cpu/pc")
    # Where of the faults alone something can be taken back, the changes stay.
    lineage = Lineage(SEED, (change("cpu/pc"),))
    reduced = bench.reduce(edited("cpu/pc"), lineage, plan)
    assert reduced is not None
    assert reduced.input.faults == FaultPlan((reset,))
    assert (reduced.parent, reduced.mutations) == (SEED, lineage.mutations)


def test_a_try_that_hangs_is_the_last(bench: Bench) -> None:
    bench.hangs = "cpu/lcg"
    bench.needs = ("cpu/lcg", "cpu/pc")
    assert bench.reduce(edited("cpu/lcg", "cpu/pc", "hpet/isr", "intc/irr")) is None
    # Only the seed came through; then there was one that did not.
    assert bench.run == [SEED]


def test_a_look_that_takes_too_long_is_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rings(trial: Trial) -> Violation | None:
        bench.run.append(trial.input.stream)
        raise SubjectError("saving", ExitKind.TIMED_OUT, Escape("HangError", "interrupted", ()))

    monkeypatch.setattr(bench, "rings", rings)
    assert bench.reduce(edited("cpu/lcg", "cpu/pc")) is None
    assert len(bench.run) == 1


def test_there_are_only_so_many_tries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadfuzz.engines.reducing.RUNS_MAX", 2)
    bench.needs = ("cpu/pc",)
    stream = edited("cpu/pc", "cpu/lcg", "hpet/isr", "intc/irr")
    reduced = bench.reduce(stream)
    assert len(bench.run) == 2
    assert reduced is not None
    assert 1 < len(reduced.mutations) < 4


def test_tries_are_a_share_of_the_executions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadfuzz.engines.reducing.RUNS_FIRST", 1)
    reducer = bench.reducer()
    item = Input(edited("cpu/pc", "hpet/config", "intc/irr"))
    assert reducer.reduce(item, NO_LINEAGE, SIGNATURE, bench.rings, 0) is not None
    done = len(bench.run)
    assert reducer.reduce(item, NO_LINEAGE, SIGNATURE, bench.rings, 0) is None
    assert len(bench.run) == done
    later = done * RUNS_SHARE
    assert reducer.reduce(item, NO_LINEAGE, SIGNATURE, bench.rings, later) is not None
    assert RUNS_MAX < RUNS_FIRST


def test_with_a_budget_of_time_reducing_has_a_share_of_it(bench: Bench) -> None:
    bench.executions = None
    bench.tick_s = SECONDS_MAX
    item = Input(edited("cpu/pc", "hpet/config", "intc/irr", "hpet/isr"))
    reducer = bench.reducer()
    for turn in range(5):
        reducer.reduce(item, NO_LINEAGE, SIGNATURE, bench.rings, 10**6)
        # Each takes all that one may have, until all have had what there is.
        assert len(bench.run) == min(turn + 1, SECONDS_FIRST / SECONDS_MAX + 1)
    bench.clock.advance(1000.0)
    reducer.reduce(item, NO_LINEAGE, SIGNATURE, bench.rings, 10**6)
    assert len(bench.run) > SECONDS_FIRST / SECONDS_MAX + 1


def test_a_clock_decides_nothing_where_the_budget_is_one_of_executions(bench: Bench) -> None:
    bench.tick_s = 1000.0
    reduced = bench.reduce(edited("cpu/pc", "hpet/config", "intc/irr", "hpet/isr"))
    assert reduced is not None
    assert reduced.input.stream == edited("cpu/pc", "hpet/config")


def test_what_ended_a_process_while_it_was_reduced_is_kept_as_it_is(bench: Bench) -> None:
    note = bench.folder / "worker-0" / NOTE_FILE

    class Killed(BaseException):
        """The loader takes the process along."""

    def rings(trial: Trial) -> Violation | None:
        assert note.read_text() == f"{SIGNATURE}\n"
        raise Killed

    item = Input(edited("cpu/pc", "hpet/config", "intc/irr"))
    assert bench.reduce(item.stream) is not None
    assert note.read_text() == ""
    with pytest.raises(Killed):
        bench.reducer().reduce(item, NO_LINEAGE, SIGNATURE, rings, 0)
    note.write_text(f"{SIGNATURE}\n")  # a process that dies does not clear it away
    bench.run.clear()
    assert bench.reduce(item.stream) is None
    assert bench.run == []
    other = bench.reducer().reduce(item, NO_LINEAGE, "another", bench.rings, 0)
    assert other is not None
    assert note.read_text() == f"{SIGNATURE}\n"


def campaign(bench: Bench, folder: Path) -> tuple[list[Event], list[Finding]]:
    """What a worker tells of a loader that takes nearly everything, and its findings."""
    corpus = Corpus(folder / "corpus")
    corpus.folder.mkdir(parents=True)
    seeds_of(folder).add(filter(None, map(corpus.add, bench.seeds_)))
    batch = Batch(bench.name, Engine.NATIVE, str(folder), 0, 5, None, EXECUTIONS)
    told: list[Event] = []
    with LastInput(folder, batch) as last_input:
        session = Session(
            batch, bench, ALL, told.append, write_finding, bench.watchdog, last_input,
            lambda: False,
        )  # fmt: skip
        assert NativeEngine(session, Rng(batch.seed)).run() == "budget"
    findings = [read_finding(folder / one.folder) for one in told if is_finding(one)]
    # Classes of CPU time are for the screen, and not in the log.
    return [
        structs.replace(event, loads={}) if isinstance(event, Progress) else event for event in told
    ], findings


def is_finding(event: Event) -> TypeGuard[FindingAnnounced]:
    return isinstance(event, FindingAnnounced)


def test_with_reductions_the_same_seed_gives_the_same_events(bench: Bench, tmp_path: Path) -> None:
    bench.needs, bench.seeds_ = ("cpu/pc",), (SEED,)
    first, findings = campaign(bench, tmp_path / "first")
    second, again = campaign(bench, tmp_path / "second")
    assert first == second
    assert [one.input for one in findings] == [one.input for one in again]
    (crash,) = (one for one in findings if one.violation.oracle == "clean-error")
    assert crash.input.stream == apply(crash.mutations, crash.parent_stream)
    for finding in findings:
        assert len(finding.mutations) <= 1
        assert finding.parent_stream in (SEED, b"")
        done, tries = finding.reliability
        assert done == tries > 0


def test_the_input_that_is_judged_is_the_last_one_again(bench: Bench, tmp_path: Path) -> None:
    batch = Batch(bench.name, Engine.NATIVE, str(tmp_path), 0, 5, None, EXECUTIONS)
    stream = edited("cpu/pc", "hpet/config", "intc/irr")
    blamed: list[bytes] = []

    def rings(trial: Trial) -> Violation | None:
        death = describe_death(tmp_path, 0, -11)
        assert death is not None
        blamed.append(death.input.stream)
        return bench.rings(trial)

    with LastInput(tmp_path, batch) as last_input:
        reducer = Reducer(
            batch, bench, lambda: InProcessExecutor(bench, bench.watchdog), lambda: [SEED],
            last_input,
        )  # fmt: skip
        assert reducer.reduce(Input(stream), NO_LINEAGE, SIGNATURE, rings, 7) is not None
        death = describe_death(tmp_path, 0, -11)
    assert blamed == bench.run
    assert death is not None
    assert (death.input.stream, death.executions) == (stream, 8)
