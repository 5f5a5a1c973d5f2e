"""With a fixed seed the campaign finds each planted bug, within so many executions.

Budgets are in executions, not seconds, so that a slow machine finds the same.  Each bug
is planted alone; what names it must be the oracle of its row, at the right place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadfuzz.abc import HasVariants, Target
from loadfuzz.bench.bugs.meetings import Meeting
from loadfuzz.bench.bugs.session import BugSession, batch_of
from loadfuzz.bench.bugs.trial import TrialRequest
from loadfuzz.bench.truth import KnowsBugs
from loadfuzz.engines.last_input import LastInput
from loadfuzz.engines.native import NativeEngine
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.plugins import load_target
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus

SEED = 46
EXECUTIONS = 40_000
"""Many times what the median bug takes."""
SUSPICION_S = 0.05

PLANTED = load_target("planted")
assert isinstance(PLANTED, HasVariants)
NAMES = tuple(PLANTED.variants())
RARE = {
    "sdcard-mode-bound",
    "ram-list-endless",
    "disk-transfer-relation",
    "nic-mac-table-signed",
}
"""They need luck with a second field, or with the one stream that shows them: their
budget is longer than a test should take, and the bench of all bugs has them."""


def campaign(target: Target, executions: int, seed: int, folder: Path) -> tuple[Meeting, ...]:
    (folder / "corpus").mkdir()
    corpus = Corpus(folder / "corpus")
    for item in target.seeds():
        corpus.add(item.stream)
    request = TrialRequest(
        target.name, "structure", seed, 0, None, executions, True, str(folder)
    )
    batch = batch_of(request)
    with LastInput(folder, batch) as last_input, Watchdog(SUSPICION_S) as watchdog:
        session = BugSession(
            request, batch, target, watchdog, last_input, lambda: False, lambda *told: None
        )
        NativeEngine(session, Rng(seed)).run()
        return session.outcome().meetings


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in RARE])
def test_the_campaign_finds_the_bug_and_names_its_oracle_and_place(
    name: str, tmp_path: Path
) -> None:
    (met,) = campaign(load_target(f"planted:{name}"), EXECUTIONS, SEED, tmp_path)
    assert met.detected is not None, met


def test_the_same_seed_finds_the_same_bugs_after_as_many_executions(tmp_path: Path) -> None:
    target = load_target("planted:footer-id-ignored")
    found = []
    for turn in ("one", "two"):
        folder = tmp_path / turn
        folder.mkdir()
        (met,) = campaign(target, EXECUTIONS, SEED, folder)
        assert met.detected is not None
        found.append(met.detected.executions)
    assert found[0] == found[1]


def test_a_target_without_the_bug_does_not_meet_it(tmp_path: Path) -> None:
    target = load_target("planted:footer-id-ignored")
    assert isinstance(target, KnowsBugs)
    assert [row.name for row in target.bug_rows()] == ["footer-id-ignored"]
    (met,) = campaign(target, 40, SEED, tmp_path)
    assert met.detected is None
