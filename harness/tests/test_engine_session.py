"""One worker's bookkeeping: budgets, reports, and what the dear oracles get to see."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.clock import ManualClock
from loadfuzz.engines.account import PROGRESS_EXECUTIONS, child_size_max
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.session import Session
from loadfuzz.events import Event, Progress
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Finding
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.mutation import Mutation
from loadfuzz.testing.scripted import ScriptedTarget


class Desk:
    """Makes sessions, and keeps what they told."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.told: list[Event] = []
        self.judged: list[bytes] = []
        self.clock = ManualClock()
        self.stopped = False
        self.last: LastInput | None = None

    def session(self, *, executions: int | None = None, seconds: float | None = None) -> Session:
        batch = Batch(
            "scripted", Engine.NATIVE, str(self.out), 0, 1, seconds, executions, dear_share=10**9
        )
        self.last = LastInput(self.out, batch)
        return Session(
            batch, ScriptedTarget(), [Oracle("dear", self.look, Cost.DEAR, "")],
            self.told.append, self.write, Watchdog(1.0), self.last, lambda: self.stopped,
            self.clock,
        )  # fmt: skip

    def look(self, trial: Trial) -> None:
        self.judged.append(trial.input.stream)

    def write(self, out: Path, finding: Finding) -> str | None:
        raise AssertionError("nothing is to be found")

    def reports(self) -> int:
        return sum(isinstance(event, Progress) for event in self.told)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    assert made.last is not None
    made.last.close()


def test_a_budget_in_executions_is_kept_and_reported_without_a_clock(desk: Desk) -> None:
    session = desk.session(executions=3 * PROGRESS_EXECUTIONS)
    for done in range(1, 3 * PROGRESS_EXECUTIONS):
        session.run(b"QEVM", NO_LINEAGE)
        desk.clock.advance(100)
        assert session.ended() == ""
        assert desk.reports() == done // PROGRESS_EXECUTIONS
    session.run(b"QEVM", NO_LINEAGE)
    assert session.ended() == "budget"


def test_a_budget_in_seconds_is_kept_and_reported_by_the_clock(desk: Desk) -> None:
    session = desk.session(seconds=2.0)
    session.run(b"QEVM", NO_LINEAGE)
    assert session.ended() == ""
    assert desk.reports() == 0
    desk.clock.advance(0.6)
    assert session.ended() == ""
    assert session.ended() == ""
    assert desk.reports() == 1
    desk.clock.advance(1.4)
    assert session.ended() == "budget"


def test_whoever_asks_it_to_stop_is_heard(desk: Desk) -> None:
    session = desk.session()
    assert session.ended() == ""
    desk.stopped = True
    assert session.ended() == "stopped"
    assert session.result("stopped").reason == "stopped"


def test_dear_oracles_see_what_is_new_and_what_survived_an_operator(desk: Desk) -> None:
    session = desk.session()
    mutated = Lineage(b"QEVMa", (Mutation("footer-id", "", ()),))
    session.run(b"QEVM1", NO_LINEAGE)
    assert desk.judged == [b"QEVM1"]
    for number in range(3, 20):
        session.run(b"QEVM%d" % number, mutated)
    # The first, the fourth and the sixteenth that were accepted in spite of it.
    assert desk.judged[1:] == [b"QEVM3", b"QEVM6", b"QEVM18"]
    session.run(b"QEVMR", NO_LINEAGE)
    session.run(b"QEVMR refused", mutated)
    session.run(b"QEVMR refused again", mutated)
    # The first that was refused for it, too: that may be a false alarm of the loader's.
    assert desk.judged[4:] == [b"QEVMR", b"QEVMR refused"]


def test_judging_can_wait_until_coverage_is_not_counted(desk: Desk) -> None:
    session = desk.session()
    session.execute(b"QEVM1", NO_LINEAGE)
    assert desk.judged == []
    session.judge_pending()
    session.judge_pending()
    assert desk.judged == [b"QEVM1"]


def test_children_may_be_larger_than_seeds_but_not_without_bound() -> None:
    assert child_size_max(0) == 1 << 16
    assert child_size_max(100_000) == 200_000
    assert child_size_max(STREAM_SIZE_MAX) == STREAM_SIZE_MAX
