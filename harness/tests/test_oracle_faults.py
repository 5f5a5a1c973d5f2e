"""The oracle of faults rings for the wrong consequence, and for nothing else."""

from dataclasses import replace

import pytest

from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.faults import FAULTS
from loadfuzz.oracles.sections import eof_offset
from loadfuzz.testing.trials import ACCEPTED, CRASHED, REJECTED, ScriptedTrial


def under(trial: ScriptedTrial, *texts: str, struck: bool = True) -> ScriptedTrial:
    faults = tuple(map(fault_of, texts))
    return replace(trial, plan=FaultPlan(faults), happened=faults if struck else ())


END = eof_offset(ACCEPTED.document()) or 0


def test_it_says_nothing_where_nothing_goes_wrong() -> None:
    assert FAULTS.judge(ACCEPTED) is None


@pytest.mark.parametrize("kind", ["reset", "eio", "close", "half-close"])
def test_a_load_that_accepts_what_broke_off_is_told_of(kind: str) -> None:
    violation = FAULTS.judge(under(ACCEPTED, f"{kind}@byte:{END}"))
    assert violation is not None
    assert violation.signature == f"faults:{kind} between sections"
    assert "must be refused" in violation.expected


def test_a_load_that_refuses_what_broke_off_is_right() -> None:
    assert FAULTS.judge(under(REJECTED, "reset@byte:3")) is None


def test_an_error_behind_the_end_need_not_be_noticed() -> None:
    assert FAULTS.judge(under(ACCEPTED, f"reset@byte:{END + 1}")) is None


def test_what_must_not_matter_may_not_change_verdict_state_or_error() -> None:
    for other, said in (
        (Outcome(ExitKind.REJECTED, "short", "pair=1"), "the verdict"),
        (Outcome(ExitKind.ACCEPTED, "", "pair=9"), "the state"),
    ):
        trial = replace(under(ACCEPTED, "short-read@byte:3=1"), repeats={WHOLE: other})
        violation = FAULTS.judge(trial)
        assert violation is not None
        assert violation.path == f"short-read: {said}"
    trial = under(REJECTED, "stall@read:1=5")
    violation = FAULTS.judge(replace(trial, repeats={WHOLE: replace(trial.first(), text="x")}))
    assert violation is not None
    assert violation.path == "stall: the error"
    assert FAULTS.judge(trial) is None


def test_a_fault_that_struck_nowhere_must_not_matter() -> None:
    other = Outcome(ExitKind.ACCEPTED, "", "pair=9")
    trial = replace(under(ACCEPTED, "reset@byte:3", struck=False), repeats={WHOLE: other})
    violation = FAULTS.judge(trial)
    assert violation is not None
    assert violation.path == "no fault: the state"


def test_any_verdict_is_right_where_only_harm_is_forbidden() -> None:
    other = Outcome(ExitKind.REJECTED, "flipped", "pair=9")
    for trial in (ACCEPTED, REJECTED):
        trial = replace(under(trial, "bit-flip@byte:3=1", "eio@byte:4"), repeats={WHOLE: other})
        assert FAULTS.judge(trial) is None


def test_a_crash_is_for_other_oracles() -> None:
    assert FAULTS.judge(under(CRASHED, "reset@byte:3")) is None


def test_a_device_that_refuses_must_be_heard() -> None:
    violation = FAULTS.judge(under(ACCEPTED, "hook-refuses@call:pair/post_load"))
    assert violation is not None
    assert violation.path == "hook-refuses at pair/post_load"
