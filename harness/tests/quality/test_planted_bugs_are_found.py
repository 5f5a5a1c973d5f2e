"""With a fixed seed a campaign finds planted bugs within so many executions, and what names
each is the oracle of its row, at the right place.

Budgets are in executions, not seconds, so that a slow machine finds the same.
``loadfuzz bench bugs`` does this at length, with trials and times.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from loadfuzz.abc import Target
from loadfuzz.bench.bugs.meetings import Meeting
from loadfuzz.bench.bugs.session import BugSession, batch_of
from loadfuzz.bench.bugs.trial import TrialRequest
from loadfuzz.bench.truth import KnowsBugs
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.native import NativeEngine
from loadfuzz.engines.worker import guard_memory
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.plugins import load_target
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus

pytestmark = pytest.mark.no_cover  # measured code is slow, and others cover the loader
SEED = 46
ALONE_EXECUTIONS = 32_000
"""At most: a bug is mostly found in some hundred, and one seed in four takes ten thousand."""
LOOK_EVERY = 256
ALL_EXECUTIONS = 12_000
ALL_DETECTED = 38
"""Of 46, all planted at once, after as many executions as a test has time for."""
SUSPICION_S = 0.05

ONE_OF_EACH_ORACLE = [
    "cpu-vector-unchecked",
    "ps2-ring-walk",
    "ram-committed-at-end",
    "footer-id-ignored",
    "section-twice",
    "cpu-register-width",
    "footer-own-id",
    "intc-priority-trusted",
    "subsection-version-cut",
    "disk-completions-append",
    "eof-at-boundary",
    "peek-fills-once",
    "disk-bounce-leak",
    "kinds-label-unbounded",
]


def campaign(
    target: Target, executions: int, seed: int, folder: Path, *, until_found: bool = False
) -> tuple[Meeting, ...]:
    (folder / "corpus").mkdir()
    corpus = Corpus(folder / "corpus")
    for item in target.seeds():
        corpus.add(item.stream)
    request = TrialRequest(target.name, "structure", seed, 0, None, executions, True, str(folder))
    batch = batch_of(request)
    with LastInput(folder, batch) as last_input, Watchdog(SUSPICION_S) as watchdog:
        session: BugSession

        def found() -> bool:
            if not until_found or session.tally.executions % LOOK_EVERY:
                return False
            return all(met.detected for met in session.outcome().meetings)

        session = BugSession(
            request, batch, target, watchdog, last_input, found, lambda *told: None
        )
        # As a worker does: one of the bugs takes what memory it is promised.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        guard_memory()
        try:
            NativeEngine(session, Rng(seed)).run()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return session.outcome().meetings


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_ORACLE)
def test_a_bug_of_each_oracle_is_found_and_named_by_it(name: str, tmp_path: Path) -> None:
    (met,) = campaign(
        load_target(f"planted:{name}"), ALONE_EXECUTIONS, SEED, tmp_path, until_found=True
    )
    assert met.detected is not None, met


def test_the_list_above_has_a_bug_of_each_oracle() -> None:
    target = load_target("planted")
    assert isinstance(target, KnowsBugs)
    oracle = {row.name: row.oracle for row in target.bug_rows()}
    assert sorted(oracle[name] for name in ONE_OF_EACH_ORACLE) == sorted(set(oracle.values()))


@pytest.mark.slow
def test_of_all_bugs_at_once_most_are_found_soon(tmp_path: Path) -> None:
    met = campaign(load_target("planted"), ALL_EXECUTIONS, SEED, tmp_path)
    missing = [meeting.bug for meeting in met if meeting.detected is None]
    assert len(met) - len(missing) >= ALL_DETECTED, missing


@pytest.mark.slow
def test_the_same_seed_finds_the_same_bug_after_as_many_executions(tmp_path: Path) -> None:
    found = []
    for turn in ("one", "two"):
        folder = tmp_path / turn
        folder.mkdir()
        target = load_target("planted:footer-id-ignored")
        (met,) = campaign(target, ALONE_EXECUTIONS, SEED, folder)
        assert met.detected is not None
        found.append(met.detected.executions)
    assert found[0] == found[1]


def test_seeds_alone_detect_no_bug_of_a_damaged_footer(tmp_path: Path) -> None:
    target = load_target("planted:footer-id-ignored")
    (met,) = campaign(target, 20, SEED, tmp_path)
    assert met.reached is not None
    assert (met.bug, met.triggered, met.detected) == ("footer-id-ignored", None, None)
