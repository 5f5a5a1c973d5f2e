"""From alarms to findings: what is confirmed, written, announced, and what never is."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

import pytest

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.judging import CONFIRMATIONS, FAULTS_MAX, SIGNATURES_MAX, Judge
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.reducing import NOTE_FILE, Reducer
from loadfuzz.engines.tally import Tally
from loadfuzz.errors import InfraError
from loadfuzz.events import Event, FindingAnnounced, FindingRepeated, MachineryWarning
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.kinds import Layer
from loadfuzz.faults.plan import Fault, FaultPlan, fault_of
from loadfuzz.faults.words import describe
from loadfuzz.findings import Finding, Violation, folder_name
from loadfuzz.inputs import Delivery, Input, Seed, digest_of
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.oracles import NO_HANG
from savevm.document import Document
from savevm.trace import Trace

BATCH = Batch("fake", Engine.NATIVE, "/nowhere", 3, 77, None, 100, dear_share=4)


class SlowSubject:
    """Burns as many rounds as its input has bytes; never ends for ``H``."""

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        while stream == b"H":
            pass
        for _ in range(100_000 * len(stream.removeprefix(b"x"))):
            pass

    def reset(self) -> None: ...

    def digest(self) -> str:
        return ""

    def save(self) -> bytes:
        raise KeyError("cannot save")

    def check_invariants(self) -> list[str]:
        return []

    def step(self, count: int) -> None: ...


class SlowTarget:
    name = "fake"
    summary = "takes its time"
    instrument = ("fake",)

    def open(self) -> SlowSubject:
        return SlowSubject()

    def seeds(self) -> list[Seed]:
        return []

    def parse(self, stream: bytes) -> Document:
        return Document.parse(stream)


@dataclass
class Bench:
    """A judge, and everything that it told."""

    watchdog: Watchdog
    events: list[Event] = field(default_factory=list)
    written: list[Finding] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    keep: bool = True
    full: bool = False

    def judge(self, *oracles: Oracle, reducer: Reducer | None = None) -> Judge:
        return Judge(
            BATCH, oracles, self.tally, self.events.append, self.write, self.executor,
            reducer=reducer,
        )  # fmt: skip

    def reducer(self, folder: Path, *seeds: bytes) -> Reducer:
        (folder / "worker-3").mkdir()
        batch = replace(BATCH, out=str(folder))
        return Reducer(batch, SlowTarget(), self.executor, lambda: seeds)

    def executor(self) -> InProcessExecutor:
        return InProcessExecutor(SlowTarget(), self.watchdog)

    def write(self, out: Path, finding: Finding) -> str | None:
        assert not any(isinstance(event, FindingAnnounced) for event in self.events)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append(finding)
        return f"findings/{len(self.written)}" if self.keep else None

    def trial(self, stream: bytes = b"x") -> Trial:
        return self.executor().execute(Input(stream))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Watchdog(0.2) as watchdog:
        yield Bench(watchdog)


def oracle(
    judge: Callable[[Trial], Violation | None], cost: Cost = Cost.CHEAP, name: str = "alarm"
) -> Oracle:
    return Oracle(name, judge, cost, "promises")


def ring(trial: Trial) -> Violation:
    return Violation("alarm", "it rang", "silence", "noise", "field[3]")


def test_the_first_alarm_is_confirmed_written_and_then_announced(bench: Bench) -> None:
    judge = bench.judge(oracle(ring))
    mutation = Mutation("bit", "", (Splice(0, 1, b"x"),))
    judge.judge(bench.trial(), new=False, lineage=Lineage(b"y", (mutation,)))
    (finding,) = bench.written
    assert finding.reliability == (CONFIRMATIONS, CONFIRMATIONS)
    assert finding.parent == digest_of(b"y")
    assert (finding.parent_stream, finding.mutations) == (b"y", (mutation,))
    assert (finding.target, finding.seed, finding.worker) == ("fake", 77, 3)
    assert bench.events == [
        FindingAnnounced(
            3, "alarm:field[#]", "alarm", "it rang", "field[3]", "findings/1", 0,
            (CONFIRMATIONS, CONFIRMATIONS),
        )
    ]  # fmt: skip
    assert judge.findings == ["alarm:field[#]"]


def test_repeated_alarms_are_told_ever_more_seldom(bench: Bench) -> None:
    judge = bench.judge(oracle(ring))
    for _ in range(20):
        judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert len(bench.written) == 1
    repeated = [event for event in bench.events if isinstance(event, FindingRepeated)]
    assert [event.times for event in repeated] == [2, 4, 8, 16]


def test_a_finding_that_could_not_be_written_is_written_the_next_time(bench: Bench) -> None:
    bench.full = True
    judge = bench.judge(oracle(ring))
    with pytest.raises(InfraError, match="make room"):
        judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    bench.full = False
    judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert [type(event) for event in bench.events] == [FindingAnnounced]


def test_a_finding_that_somebody_else_has_written_is_not_announced_again(bench: Bench) -> None:
    bench.keep = False
    judge = bench.judge(oracle(ring))
    judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert bench.events == [FindingRepeated(3, "alarm:field[#]", 1)]
    assert judge.findings == []


def test_reliability_says_how_often_it_rang_again(bench: Bench) -> None:
    rings = iter([True, False, True, False])
    judge = bench.judge(oracle(lambda trial: ring(trial) if next(rings) else None))
    judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert bench.written[0].reliability == (1, 3)


def test_a_finding_holds_what_is_left_of_its_input(bench: Bench, tmp_path: Path) -> None:
    def rings(trial: Trial) -> Violation | None:
        return ring(trial) if trial.input.stream.endswith(b"3") else None

    judge = bench.judge(oracle(rings), reducer=bench.reducer(tmp_path, b"x12"))
    mutation = Mutation("raw", "", (Splice(0, 3, b"yz3"),))
    judge.judge(bench.trial(b"yz3"), new=False, lineage=Lineage(b"x12", (mutation,)))
    (finding,) = bench.written
    assert finding.input.stream.endswith(b"3")
    assert finding.parent_stream == b"x12"
    assert finding.parent == digest_of(b"x12")
    assert apply(finding.mutations, b"x12") == finding.input.stream
    assert finding.mutations != (mutation,)
    assert finding.reliability == (CONFIRMATIONS, CONFIRMATIONS)


def test_what_rings_less_often_reduced_is_kept_as_it_was(bench: Bench, tmp_path: Path) -> None:
    asked: Counter[bytes] = Counter()

    def rings(trial: Trial) -> Violation | None:
        stream = trial.input.stream
        asked[stream] += 1
        # The seed rings once, by chance.
        return ring(trial) if stream == b"yz3" or asked[stream] == 1 else None

    judge = bench.judge(oracle(rings), reducer=bench.reducer(tmp_path, b"x12"))
    judge.judge(bench.trial(b"yz3"), new=False, lineage=Lineage(b"x12"))
    (finding,) = bench.written
    assert asked[b"x12"] == 1 + CONFIRMATIONS
    assert finding.input.stream == b"yz3"
    assert finding.reliability == (CONFIRMATIONS, CONFIRMATIONS)


def test_what_hangs_is_not_reduced(bench: Bench, tmp_path: Path) -> None:
    bench.watchdog.allow(1)
    judge = bench.judge(NO_HANG, reducer=bench.reducer(tmp_path, b"x"))
    trial = bench.trial(b"H")
    assert trial.execution.kind is ExitKind.TIMED_OUT
    judge.judge(trial, new=False, lineage=Lineage(b"x"))
    (finding,) = bench.written
    assert finding.input.stream == b"H"
    assert not (tmp_path / "worker-3" / NOTE_FILE).exists()


def test_a_reduction_that_fails_costs_no_finding(bench: Bench, tmp_path: Path) -> None:
    reducer = bench.reducer(tmp_path, b"x")
    (tmp_path / "worker-3").rmdir()
    judge = bench.judge(oracle(ring), reducer=reducer)
    judge.judge(bench.trial(b"yz"), new=False, lineage=NO_LINEAGE)
    (finding,) = bench.written
    assert finding.input.stream == b"yz"
    assert judge.faults == 1


def test_a_finding_that_the_folder_has_is_not_kept_again(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "findings" / folder_name("alarm:field[#]")).mkdir(parents=True)
    batch = replace(BATCH, out=str(tmp_path))
    judge = Judge(
        batch, [oracle(ring)], bench.tally, bench.events.append, bench.write, bench.executor
    )
    judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert bench.written == []
    assert bench.events == [FindingRepeated(3, "alarm:field[#]", 1)]


def test_an_oracle_that_fails_is_a_warning_once_and_never_a_finding(bench: Bench) -> None:
    def broken(trial: Trial) -> Violation | None:
        raise KeyError("my own fault")

    judge = bench.judge(oracle(broken))
    for _ in range(5):
        judge.judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    assert judge.faults == 5
    assert bench.written == []
    (warning,) = bench.events
    assert isinstance(warning, MachineryWarning)
    assert "oracle alarm failed with KeyError" in warning.text


def test_there_are_only_so_many_warnings(bench: Bench) -> None:
    judge = bench.judge()
    for number in range(2 * FAULTS_MAX):
        judge.fault(f"doing thing {number}", ValueError())
    assert len(bench.events) == FAULTS_MAX
    assert judge.faults == 2 * FAULTS_MAX


def test_a_target_that_cannot_save_what_it_accepted_is_a_finding(bench: Bench) -> None:
    def saves(trial: Trial) -> Violation | None:
        trial.saved()
        return None

    bench.judge(oracle(saves)).judge(bench.trial(), new=False, lineage=NO_LINEAGE)
    (finding,) = bench.written
    assert finding.violation.oracle == "alarm"
    assert "KeyError" in finding.violation.title
    assert "SlowSubject.save" in finding.violation.path
    assert finding.reliability == (3, 3)


def test_dear_oracles_see_all_that_is_new_and_a_share_of_the_rest(bench: Bench) -> None:
    asked: list[str] = []

    def cheap(trial: Trial) -> None:
        asked.append("cheap")

    def dear(trial: Trial) -> None:
        asked.append("dear")

    judge = bench.judge(oracle(cheap, name="c"), oracle(dear, Cost.DEAR, name="d"))
    trial = bench.trial()
    for _ in range(12):
        judge.judge(trial, new=False, lineage=NO_LINEAGE)
    assert asked.count("cheap") == 12
    assert asked.count("dear") == 12 // BATCH.dear_share
    judge.judge(trial, new=True, lineage=NO_LINEAGE)
    assert bench.tally.judged == {"c": 13, "d": 4, "faults": 0}


def test_signatures_are_bounded_and_the_bound_is_told_once(bench: Bench) -> None:
    names = (letters for letters in permutations("abcdefgh", 6))

    def inventive(trial: Trial) -> Violation:
        return Violation("alarm", "", "", "", "".join(next(names)))

    judge = bench.judge(oracle(inventive))
    trial = bench.trial()
    for _ in range(SIGNATURES_MAX):
        judge.judge(trial, new=False, lineage=NO_LINEAGE)
        bench.events.clear()
    for _ in range(50):
        judge.judge(trial, new=False, lineage=NO_LINEAGE)
    assert len(bench.written) == SIGNATURES_MAX
    (warning,) = bench.events
    assert isinstance(warning, MachineryWarning)
    assert f"{SIGNATURES_MAX} findings; further ones are not kept" in warning.text


def test_a_load_that_was_only_slow_is_no_hang(bench: Bench) -> None:
    # Its loaders are watched by nobody: they may take all the time they need.
    judge = bench.judge()
    bench.watchdog = Watchdog(1.0)
    with Watchdog(0.01) as impatient:
        trial = InProcessExecutor(SlowTarget(), impatient).execute(Input(b"o" * 50))
        assert trial.execution.kind is ExitKind.TIMED_OUT
        settled = judge.settle(trial)
    assert settled.execution.kind is ExitKind.ACCEPTED
    assert settled.input == trial.input


def test_a_hang_stays_one_and_the_second_is_not_confirmed_again(bench: Bench) -> None:
    opened: list[InProcessExecutor] = []

    def executor() -> InProcessExecutor:
        opened.append(bench.executor())
        return opened[-1]

    judge = Judge(BATCH, (), bench.tally, bench.events.append, bench.write, executor)
    with Watchdog(0.02) as watchdog:
        bench.watchdog = watchdog
        for _ in range(2):
            trial = bench.executor().execute(Input(b"H"))
            assert trial.execution.kind is ExitKind.TIMED_OUT
            assert judge.settle(trial) is trial
    assert len(opened) == 1


class FaultySubject(SlowSubject):
    """Does not care what goes wrong."""

    layers = frozenset({Layer.TRANSPORT})

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        self.struck_faults = faults.faults

    def struck(self) -> tuple[Fault, ...]:
        return self.struck_faults


class FaultyTarget(SlowTarget):
    def open(self) -> FaultySubject:
        return FaultySubject()


def test_a_finding_tells_its_faults_in_words(bench: Bench) -> None:
    def executor() -> InProcessExecutor:
        return InProcessExecutor(FaultyTarget(), bench.watchdog)

    judge = Judge(BATCH, [oracle(ring)], bench.tally, bench.events.append, bench.write, executor)
    plan = FaultPlan((fault_of("bit-flip@byte:0=1"),))
    trial = executor().execute(Input(b"xx", faults=plan))
    judge.judge(trial, new=False, lineage=NO_LINEAGE)
    (finding,) = bench.written
    assert finding.input.faults == plan
    assert finding.fault_words == tuple(describe(plan, trial.document()))
