"""Each fuzz target runs all three ways, starts from accepted seeds, and changes what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadfuzz.abc import ChoosesOperators, Mutable, Target
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import Delivery, Input
from loadfuzz.mutation import Mutation
from loadfuzz.mutators import ALL
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.plugins import TARGETS, find, load_target
from loadfuzz.rng import Rng
from loadfuzz.standalone.guided import Guided
from loadfuzz.standalone.loop import fuzz
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.planted import TARGET as PLANTED

OTHERS = {"callable", "command", "planted", "qemu", "reference"}
"""Not after one part of the format: everything, known bugs, and loaders that are not ours."""
FOCUSED = [
    name
    for name, plugin in find(TARGETS).items()
    if plugin.where.startswith("loadfuzz_targets.") and name not in OTHERS
]
EACH = pytest.mark.parametrize("name", FOCUSED)
TIMEOUT_S = 120
HAS_ATHERIS = find_spec("atheris") is not None


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(2.0) as dog:
        yield dog


def module_of(name: str) -> str:
    return find(TARGETS)[name].where.partition(":")[0]


def run_module(name: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module_of(name), *arguments],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_every_target_of_the_design_exists() -> None:
    assert set(FOCUSED) >= {
        "section-types", "section-ids", "counted-strings", "vmdesc", "footers", "field-values",
        "ram", "configuration", "snapshot", "live-migration",
    }  # fmt: skip


@EACH
def test_its_seeds_are_accepted(name: str, watchdog: Watchdog) -> None:
    target = load_target(name)
    executor = InProcessExecutor(target, watchdog)
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        assert executor.execute(Input(seed.stream)).execution.kind is ExitKind.ACCEPTED, seed.name


@EACH
def test_each_name_of_an_operator_stands_for_one(name: str) -> None:
    target = load_target(name)
    assert isinstance(target, ChoosesOperators)
    names = [operator.name for operator in ALL]
    for pattern in target.operators():
        stem = pattern.rstrip("*")
        assert any(n.startswith(stem) if pattern.endswith("*") else n == stem for n in names), (
            pattern
        )


@EACH
def test_no_oracle_rings_in_its_own_test(name: str) -> None:
    module = import_module(module_of(name))
    (test,) = [value for key, value in vars(module).items() if key.startswith("test_")]
    test()


def test_it_is_a_test_file_for_pytest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs",
         "loadfuzz_targets.vmdesc"],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["section-types", "snapshot", "reference"])
def test_it_is_a_libfuzzer_binary(name: str, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    # The peak that libFuzzer looks at begins with that of whoever started it: this very test.
    done = run_module(name, tmp_path, "-runs=60", "-seed=1", "-rss_limit_mb=0", "corpus")
    assert done.returncode == 0, done.stderr
    if HAS_ATHERIS:
        assert "Done 60 runs" in done.stderr
        assert list((tmp_path / "corpus").iterdir())


def test_planted_bugs_fail_it_as_libfuzzer_wants(tmp_path: Path) -> None:
    done = run_module("planted", tmp_path, "-runs=2000", "-seed=1", "-rss_limit_mb=0")
    assert done.returncode == 77, done.stderr
    assert list(tmp_path.glob("crash-*"))


def test_help_is_shown_and_nothing_is_fuzzed(tmp_path: Path) -> None:
    done = run_module("vmdesc", tmp_path, "--help")
    assert done.returncode == 0
    assert "-max_total_time=SECONDS" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 90


def test_one_seed_makes_the_same_children_under_libfuzzer() -> None:
    target = load_target("vmdesc")
    stream = next(iter(target.seeds())).stream
    one, two, other = (
        [guided.mutate(stream, 1 << 16, turn) for turn in range(20)]
        for guided in (Guided(target, 5), Guided(target, 5), Guided(target, 6))
    )
    assert one == two != other


def test_dear_oracles_look_at_children_of_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("versions")
    streams = [seed.stream for seed in target.seeds()]
    parents: list[int] = []
    child = MutationStack.child

    def noting(
        self: MutationStack, subject: Mutable, rng: Rng
    ) -> tuple[bytes, tuple[Mutation, ...]]:
        parents.append(streams.index(subject.stream))
        return child(self, subject, rng)

    monkeypatch.setattr(MutationStack, "child", noting)
    assert fuzz(target, 600, 1) is None
    looked = {parents[done - len(streams)] for done in range(64, 600, 64)}
    assert len(looked) > 1


def test_files_are_run_once_each(tmp_path: Path) -> None:
    seed = next(iter(load_target("vmdesc").seeds()))
    (tmp_path / "one").write_bytes(seed.stream)
    done = run_module("vmdesc", tmp_path, "one")
    assert (done.returncode, "Running: one" in done.stderr) == (0, True)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run_module("vmdesc", tmp_path, "-runs=1", "nowhere")
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr


def test_an_alarm_fails_the_test_and_says_which_oracle() -> None:
    target: Target = PLANTED.variant("footer-id-ignored")
    with pytest.raises(AssertionError, match="footer: a"):
        fuzz_test(target, executions=4000)()


def test_the_short_loop_makes_the_same_inputs_for_the_same_seed() -> None:
    target: Target = PLANTED.variant("footer-id-ignored")
    first, second = fuzz(target, 4000, 7), fuzz(target, 4000, 7)
    assert first is not None
    assert first == second


def test_a_failed_loadvm_leaves_the_disk_as_it_was(watchdog: Watchdog) -> None:
    target = load_target("snapshot")
    stream = next(iter(target.seeds())).stream
    executor = InProcessExecutor(target, watchdog)
    trial = executor.execute(Input(stream[: len(stream) // 2]))
    assert trial.execution.kind is ExitKind.REJECTED
    assert trial.digest_after == trial.digest_before
    accepted = executor.execute(Input(stream))
    assert accepted.execution.kind is ExitKind.ACCEPTED
    assert "~disk0=" in accepted.digest_after
    assert accepted.digest_after != accepted.digest_before


def test_a_snapshot_loads_in_any_pieces(watchdog: Watchdog) -> None:
    target = load_target("snapshot")
    stream = next(iter(target.seeds())).stream
    trial = InProcessExecutor(target, watchdog).execute(Input(stream))
    assert trial.repeat(stream, Delivery((3, 7))) == trial.repeat(stream, Delivery())
