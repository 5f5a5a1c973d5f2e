"""A machine's own stream decides how closely it is looked at, and people are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.remote_loop import run_remote
from loadfuzz.errors import UsageError
from loadfuzz.events import Event, MachineryWarning
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.plugins import load_target
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.rehearsal import LOADS, Look, rehearse, remark
from loadfuzz.repro.folder import write_finding
from loadfuzz.storage import Corpus
from loadfuzz.testing.remembering import RememberingExecutor, RememberingTarget

SPEC = MachineSpec("my-qemu", "board")
ACCEPTED = Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)
REFUSED = Execution(ExitKind.REJECTED, Depth.HEADER, refusal=Refusal("no", 22, None, ()))
DIED = Execution(
    ExitKind.CRASHED, Depth.ACCEPTED, escape=Escape("SIGSEGV", "running the guest", ())
)


class Scripted:
    """An executor (:class:`loadfuzz.qemu.rehearsal.Rehearsing`).

    Args:
        ends: how loads end, by number from 1, that do not end well.
    """

    def __init__(self, ends: dict[int, Execution]) -> None:
        self._ends = ends
        self.loads: list[bool] = []

    async def renew(self) -> None:
        assert not self.loads, "it is renewed before anything else"

    async def sane(self, *, closely: bool = False) -> Execution:
        self.loads.append(closely)
        return self._ends.get(len(self.loads), ACCEPTED)


def rehearsed(ends: dict[int, Execution], look: Look = Look.FULL) -> tuple[str, list[bool]]:
    executor = Scripted(ends)
    return asyncio.run(rehearse(executor, SPEC, look)), executor.loads


def test_a_machine_that_is_well_is_looked_at_after_one_load_and_after_several() -> None:
    why, loads = rehearsed({})
    assert why == ""
    assert loads == [False, True, False, False, True, False, False, False, True]
    assert len(loads) == sum(LOADS) + len(LOADS)


@pytest.mark.parametrize(("at", "why"), [(2, "SIGSEGV running the guest"), (5, "no"), (6, "no")])
def test_what_goes_wrong_at_a_closer_look_or_after_one_is_its_fault(at: int, why: str) -> None:
    said, loads = rehearsed({at: DIED if at == 2 else REFUSED})
    assert said == why
    assert len(loads) == at


@pytest.mark.parametrize("look", list(Look))
def test_a_machine_that_does_not_load_itself_is_of_no_use(look: Look) -> None:
    with pytest.raises(UsageError, match=r"'my-qemu' does not load what its .*: no"):
        rehearsed({1: REFUSED}, look)


def test_a_look_that_does_nothing_is_no_excuse() -> None:
    with pytest.raises(UsageError, match="does not load"):
        rehearsed({3: REFUSED}, Look.NONE)


class Remarking(RememberingExecutor):
    """An executor of which people should know something."""

    remarks = (remark(SPEC, "SIGSEGV running the guest", Look.STILL),)


class RemarkingTarget(RememberingTarget):
    """Its executors."""

    @asynccontextmanager
    async def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AsyncIterator[RememberingExecutor]:
        yield Remarking({}, self.seed)


def test_what_people_should_know_is_in_the_event_log_once(tmp_path: Path) -> None:
    target = RemarkingTarget(load_target("reference"), "full-device-state-only", [])
    (tmp_path / "corpus").mkdir()
    Corpus(tmp_path / "corpus").add(target.seed)
    told: list[Event] = []
    batch = Batch(target.name, Engine.NATIVE, str(tmp_path), 0, 1, None, 50)
    asyncio.run(run_remote(batch, target, told.append, write_finding, lambda: False))
    warnings = [event.text for event in told if isinstance(event, MachineryWarning)]
    assert warnings == [
        "'my-qemu' fails over what its own machine 'board' saved, when looked at closely (SIGSEGV "
        "running the guest): inputs are looked at without running the guest"
    ]
