"""Batches on a Dask cluster of real processes on loopback, and what they bring."""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loadfuzz.campaign.admission import INCOMING, Admission
from loadfuzz.campaign.admit import Answer
from loadfuzz.campaign.folder import CampaignFolder, open_folder
from loadfuzz.campaign.incoming import adopt_finding
from loadfuzz.campaign.parcel import Kept
from loadfuzz.campaign.stock import BYTES_MAX, STREAMS_MAX, Stock
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.events import FindingAnnounced, FindingRepeated
from loadfuzz.inputs import digest_of
from loadfuzz.repro.folder import finding_folders
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

CLUSTER = ("run", "scripted", "--engine", "native", "--cluster", "local", "--workers", "2",
           "--out", "mine")  # fmt: skip
WAIT_S = 60.0


@contextmanager
def none_left(folder: Path) -> Iterator[None]:
    """No process that was started in ``folder`` is there afterwards."""
    yield
    until = time.monotonic() + WAIT_S
    while left := [process for process in psutil.process_iter() if is_ours(process, folder)]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def is_ours(process: psutil.Process, folder: Path) -> bool:
    try:
        site = process.environ().get("PYTHONPATH", "")
        return str(folder) in site and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def spawned_by_dask(folder: Path, word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if is_ours(process, folder) and any(word in item for item in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(folder: Path, word: str) -> psutil.Process:
    until = time.monotonic() + WAIT_S
    while not (found := spawned_by_dask(folder, word)):
        assert time.monotonic() < until, word
        time.sleep(0.05)
    return found[0]


# -- a campaign -------------------------------------------------------------------------------


def test_a_cluster_finds_what_one_machine_finds_and_leaves_nothing_behind(
    installed: Installed,
) -> None:
    seeds = {SEEDS_VARIABLE: "QEVMXabc,QEVMKabc,QEVMabc"}
    with none_left(installed.folder.parent):
        # No more than the seeds: what else is met is up to chance.
        alone = installed.json(
            "run", "scripted", "--engine", "native", "--execs", "3", "--workers", "1", "--json",
            **seeds,
        )  # fmt: skip
        done = installed.run(*CLUSTER, "--execs", "300", "--json", **seeds)
    assert done.returncode == 1, done.stderr
    value = json.loads(done.stdout)

    def signatures(result: dict[str, object]) -> set[str]:
        findings = result["findings"]
        assert isinstance(findings, list)
        return {finding["signature"] for finding in findings}

    assert len(signatures(alone)) == 2
    assert signatures(alone) <= signatures(value)
    assert value["executions"] == 300
    assert all("is in quarantine now" in warning for warning in value["warnings"])
    ledger = json.loads((installed.folder / "mine" / "stats" / "cluster.json").read_text())
    assert ledger["batches"] >= 1
    # Only what showed something here too was kept.
    assert value["corpus"] == 3 + ledger["admitted"]
    folder = installed.folder / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "campaign.json", "corpus", "events.ndjson", "findings", "lock",
        "outsiders", "stats",
    }  # fmt: skip
    for path in finding_folders(folder / "findings"):
        assert installed.run("replay", str(path)).returncode == 1


def test_a_batch_whose_machine_is_killed_is_done_again(installed: Installed) -> None:
    with none_left(installed.folder.parent):
        process = installed.start(
            *CLUSTER, "--execs", "500", "--json", **{SEEDS_VARIABLE: "QEVMXabc,QEVMabc"}
        )
        parcel = wait_for(installed.folder.parent, "loadfuzz.campaign.parcel_worker")
        # It is tied to the Dask worker, which is its parent.
        dask = parcel.parent()
        assert dask is not None
        dask.kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    value = json.loads(out)
    assert value["findings"]
    assert value["executions"] >= 500
    ledger = json.loads((installed.folder / "mine" / "stats" / "cluster.json").read_text())
    # A batch of this target may come to nothing: what it is made to do kills workers.
    assert all("does not get going" in text for text in value["warnings"] if "worker 0" in text)
    assert ledger["batches"] >= 1


def test_one_ctrl_c_stops_a_cluster_and_keeps_what_was_found(installed: Installed) -> None:
    with none_left(installed.folder.parent):
        process = installed.start(
            *CLUSTER, "--time", "10m", "--json", **{SEEDS_VARIABLE: "QEVMXabc,QEVMabc"}
        )
        findings = installed.folder / "mine" / "findings"
        until = time.monotonic() + WAIT_S
        while not (findings.is_dir() and finding_folders(findings)):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    value = json.loads(out)
    assert value["reason"] == "interrupted"
    assert value["findings"]


def test_when_the_supervisor_is_killed_its_cluster_ends_too(installed: Installed) -> None:
    with none_left(installed.folder.parent):
        process = installed.start(*CLUSTER, "--time", "10m")
        wait_for(installed.folder.parent, "loadfuzz.campaign.parcel_worker")
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_ends_a_cluster_run_with_words(installed: Installed, small_disk: Path) -> None:
    with none_left(installed.folder.parent):
        done = installed.run(
            "run", "planted", "--engine", "native", "--cluster", "local", "--workers", "2",
            "--out", str(small_disk / "mine"), "--time", "100s", "--no-live",
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert "make room" in done.stderr


def test_ctrl_c_ends_the_wait_for_a_scheduler(installed: Installed) -> None:
    # It takes connections, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        process = installed.start(
            "run", "scripted", "--engine", "native", "--cluster", address, "--out", "mine"
        )
        silent.settimeout(WAIT_S)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err


def test_a_scheduler_that_goes_away_is_said(installed: Installed) -> None:
    with none_left(installed.folder.parent):
        process = installed.start(*CLUSTER, "--time", "10m")
        wait_for(installed.folder.parent, "loadfuzz.campaign.parcel_worker")
        wait_for(installed.folder.parent, "distributed.cli.dask_scheduler").kill()
        _, err = process.communicate(timeout=110)
    assert process.returncode == 3, err
    assert "scheduler" in err
    assert "file system" not in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shard", "1/2", "--out", "x"), "two ways to share the work"),
        (("--until-stale", "5s"), "--until-stale must be 120 s or more with --cluster"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(
    installed: Installed, more: tuple[str, ...], said: str
) -> None:
    done = installed.run("run", "scripted", "--cluster", "local", *more)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (installed.folder / "x").exists()


def test_a_scheduler_that_is_not_there_is_an_error_of_use(installed: Installed) -> None:
    done = installed.run(
        "run", "scripted", "--engine", "native", "--cluster", "tcp://127.0.0.1:9", "--out", "mine"
    )
    assert done.returncode == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_dask_the_error_says_what_to_install(installed: Installed) -> None:
    (installed.folder.parent / "site" / "distributed.py").write_text("raise ImportError('no')\n")
    done = installed.run("run", "scripted", "--cluster", "local")
    assert done.returncode == 2
    assert "pip install 'loadfuzz[cluster]'" in done.stderr
    assert not (installed.folder / "loadfuzz-out").exists()


# -- what it starts from ----------------------------------------------------------------------


def answer(name: str, features: tuple[int, ...], *, size: int = 10) -> Answer:
    return Answer(digest_of(name.encode()), size, features, worth=True)


def test_streams_with_rare_features_travel_more_often() -> None:
    stock, rng = Stock(), Rng(1)
    for number in range(200):
        stock.add(answer(f"common {number}", (1, 2)))
    rare = answer("rare", (1, 3))
    stock.add(rare)
    batches = [stock.draw(rng) for _ in range(20)]
    assert {len(batch) for batch in batches} == {STREAMS_MAX}
    assert all(len(set(batch)) == len(batch) for batch in batches)
    assert sum(rare.digest in batch for batch in batches) > 10


def test_a_batch_has_room_for_so_many_bytes_and_at_least_one_stream() -> None:
    stock = Stock()
    for number in range(4):
        stock.add(answer(f"large {number}", (number,), size=BYTES_MAX + 1))
    assert len(stock.draw(Rng(1))) == 1
    for number in range(10):
        stock.add(answer(f"half {number}", (10 + number,), size=BYTES_MAX // 2))
    assert 1 <= len(stock.draw(Rng(2))) <= 3


def test_streams_that_claim_nothing_unknown_are_not_run_here() -> None:
    stock = Stock()
    stock.add(Answer(digest_of(b"x" * 40), 40, (1, 2), ("a", "b"), "ab", worth=True))
    assert stock.promising(Kept(b"y" * 40, (), ("c",), "abc"))
    assert not stock.promising(Kept(b"y" * 40, (), ("a",), "ab"))
    # Known features in an order that is new, and nothing else.
    assert not stock.promising(Kept(b"y" * 40, (), ("a",), "ba"))
    assert stock.promising(Kept(b"y" * 30, (), (), "ab"))
    assert not stock.promising(Kept(b"y" * 31, (), (), "ab"))
    assert not stock.promising(Kept(b"x" * 40, (), ("c",), "abc"))
    assert stock.promising(Kept(b"kept for its coverage", (), (), ""))


def test_a_stream_is_judged_once_a_batch_with_it_is_done() -> None:
    stock = Stock()
    seed, child = answer("seed", (1,)), answer("child", (1, 2))
    stock.add(seed)
    stock.add(child, judged=True)
    digests = [seed.digest, child.digest]
    assert stock.outsiders(digests) == (seed.digest,)
    stock.credit([seed.digest], 3, judged=False)
    assert stock.outsiders(digests) == (seed.digest,)
    stock.credit([seed.digest], 3, judged=True)
    assert stock.outsiders(digests) == ()


# -- nothing is believed before it was run here -----------------------------------------------


def campaign(folder: Path, *streams: bytes) -> CampaignFolder:
    made = open_folder(folder / "mine", "scripted")
    for name in ("corpus", "findings"):
        (made.path / name).mkdir()
    for stream in streams:
        made.corpus.add(stream)
    return made


def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have child processes know the scripted target."""
    monkeypatch.setenv("PYTHONPATH", Installed.within(tmp_path).environment["PYTHONPATH"])


def test_only_streams_that_show_something_new_here_are_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tmp_path, monkeypatch)
    folder = campaign(tmp_path, b"QEVM, and accepted")
    known: list[Answer] = []

    async def ask() -> list[Answer | None]:
        async with Admission("scripted", folder.path, 2.0, known.append) as admission:
            return [
                await admission.admit(stream)
                for stream in (b"QEVM, accepted too", b"QEVMR", b"QEVMR, once more")
            ]

    same, refused, again = asyncio.run(ask())
    assert [item.digest for item in known] == [digest_of(b"QEVM, and accepted")]
    assert same is not None
    assert (same.worth, same.accepted) == (False, True)
    assert refused is not None
    assert (refused.worth, refused.accepted) == (True, False)
    assert again is not None
    assert not again.worth
    assert set(folder.corpus.digests()) == {digest_of(b"QEVM, and accepted"), digest_of(b"QEVMR")}
    assert not (folder.path / INCOMING).exists()


def test_a_stream_that_ends_the_process_is_not_admitted_and_the_next_one_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tmp_path, monkeypatch)
    folder = campaign(tmp_path, b"QEVM")

    async def ask() -> list[Answer | None]:
        async with Admission("scripted", folder.path, 2.0, lambda answer: None) as admission:
            return [await admission.admit(stream) for stream in (b"QEVMK", b"QEVMR")]

    killed, refused = asyncio.run(ask())
    assert killed is None
    assert refused is not None
    assert refused.worth


def test_a_process_that_died_between_two_questions_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tmp_path, monkeypatch)
    folder = campaign(tmp_path, b"QEVM")

    async def ask() -> Answer | None:
        async with Admission("scripted", folder.path, 2.0, lambda answer: None) as admission:
            [process] = [p for p in psutil.Process().children() if "admit" in str(p.cmdline())]
            process.kill()
            psutil.wait_procs([process], timeout=WAIT_S)
            return await admission.admit(b"QEVMR")

    refused = asyncio.run(ask())
    assert refused is not None
    assert refused.worth


def test_a_stream_of_the_corpus_that_ends_the_process_is_left_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tmp_path, monkeypatch)
    folder = campaign(tmp_path, b"QEVM", b"QEVMK", b"QEVMR")
    known: list[Answer] = []

    async def ask() -> Answer | None:
        async with Admission("scripted", folder.path, 2.0, known.append) as admission:
            return await admission.admit(b"QEVMX")

    assert asyncio.run(ask()) is not None
    shown = {item.digest: item.features for item in known}
    assert set(shown) == set(map(digest_of, (b"QEVM", b"QEVMK", b"QEVMR")))
    assert shown[digest_of(b"QEVMK")] == ()
    assert shown[digest_of(b"QEVM")] != ()


def test_a_target_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    folder = campaign(tmp_path, b"QEVM")

    async def ask() -> None:
        async with Admission("no-such-target", folder.path, 2.0, lambda answer: None):
            pass

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(ask())
    told = raised.value.subgroup(InfraError)
    assert told is not None
    assert "no target 'no-such-target'" in str(told.exceptions[0])
    assert not (folder.path / INCOMING).exists()
    assert not (folder.path / "admit.json").exists()


# -- findings ---------------------------------------------------------------------------------


@pytest.fixture
def found(installed: Installed) -> dict[str, bytes]:
    """The files of a finding that was made elsewhere."""
    installed.run(
        "run", "scripted", "--engine", "native", "--execs", "20", "--out", "elsewhere",
        **{SEEDS_VARIABLE: "QEVMXabc"},
    )  # fmt: skip
    place = finding_folders(installed.folder / "elsewhere" / "findings")[0]
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_a_finding_is_as_good_here_as_where_it_was_made(
    installed: Installed, found: dict[str, bytes]
) -> None:
    folder = campaign(installed.folder)
    told = adopt_finding(folder, found, 5, "scripted")
    assert isinstance(told, FindingAnnounced)
    assert told.worker == 5
    done = installed.run("replay", str(folder.path / told.folder))
    assert done.returncode == 1, done.stderr
    assert str(folder.path / told.folder) in (folder.path / told.folder / "report.txt").read_text()
    again = adopt_finding(folder, found, 6, "scripted")
    assert again == FindingRepeated(6, told.signature, 1)


@pytest.mark.parametrize("name", ["../escape", ".hidden", "/etc/passwd"])
def test_a_finding_with_strange_files_is_refused(
    installed: Installed, found: dict[str, bytes], name: str
) -> None:
    folder = campaign(installed.folder)
    with pytest.raises(UsageError, match="cannot name a further file"):
        adopt_finding(folder, {**found, name: b"x"}, 0, "scripted")
    assert list(folder.findings.iterdir()) == []


def test_a_finding_whose_input_was_torn_on_the_way_is_refused(
    installed: Installed, found: dict[str, bytes]
) -> None:
    folder = campaign(installed.folder)
    with pytest.raises(UsageError, match="changed or torn"):
        adopt_finding(folder, {**found, "input": found["input"][:-1]}, 0, "scripted")
    with pytest.raises(UsageError, match="no finding"):
        adopt_finding(folder, {}, 0, "scripted")
    with pytest.raises(UsageError, match="of target"):
        adopt_finding(folder, found, 0, "planted")
    assert list(folder.findings.iterdir()) == []
    assert Corpus(folder.corpus.folder).folder.is_dir()
    shutil.rmtree(folder.path)
    assert os.listdir(installed.folder) == ["elsewhere"]
