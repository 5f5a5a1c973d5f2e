"""Batches on a cluster whose loader runs in a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from loadfuzz import codec
from loadfuzz.abc import NeedsSlots
from loadfuzz.campaign import parcel_worker
from loadfuzz.campaign.admission import INCOMING, Admission
from loadfuzz.campaign.admit import Answer
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.carrying import SEED_BYTES_MAX, SEEDS_MAX, Seeds
from loadfuzz.campaign.folder import CampaignFolder, open_folder
from loadfuzz.campaign.incoming import EXTRA_FILES_MAX, adopt_finding
from loadfuzz.campaign.parcel import Finished, Found, Message, Parcel, Told
from loadfuzz.campaign.parcel_worker import PARCEL, work
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.witness import TROUBLES_MAX, NothingSeenError, Witness
from loadfuzz.clock import SystemClock
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.events import FindingAnnounced, MachineryWarning
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.findings import Earlier, Finding, Violation
from loadfuzz.inputs import Input, digest_of
from loadfuzz.plugins import load_any_target, load_target
from loadfuzz.repro.folder import finding_folders, read_finding, write_finding
from loadfuzz.storage import Corpus, seeds_of
from loadfuzz.testing.installed import Installed, install_target
from loadfuzz.testing.remembering import SILENT, RememberingExecutor, RememberingTarget

WAIT_S = 60.0
SEED = "full-device-state-only"
IMAGE = b"\0\xff" * 50

MODULE = f"""\
import os
import sys

from loadfuzz.executors.command_spec import CommandSpec
from loadfuzz.plugins import load_target
from loadfuzz.testing.remembering import Effect, RememberingTarget, Rule
from loadfuzz_targets.command import CommandTarget


class Scripted(RememberingTarget):
    def script(self, finding):
        return {{"reproduce.sh": b"exit 1\\n", "image.qcow2": {IMAGE!r}}}


REMEMBERING = Scripted(load_target("reference"), {SEED!r}, [
    Rule(("intc/irr",), Effect.PLANTS),
    Rule(("hpet/isr",), Effect.POISONS),
    Rule(("cpu/pc",), Effect.DIES),
    Rule(("cpu/flags",), Effect.TROUBLE),
])


class Slotted(CommandTarget):
    slot = "LOADER"


SLOTTED = Slotted("slotted", CommandSpec(
    f"{{sys.executable}} -I -S {{os.environ.get('LOADER_SCRIPT', 'none')}} {{{{input}}}}"
))
"""
"""Two targets: one that remembers, with a script for each finding, and one that needs slots."""

LOADER = """\
import os

with open(os.environ["LOADED_AT"], "a") as file:
    file.write(os.environ.get("PLACE", "here") + "\\n")
"""
"""Accepts everything, and says on which machine."""


@pytest.fixture
def remote(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """With both targets installed, for child processes of this one, too."""
    site = installed.folder.parent / "site"
    (site / "cluster_targets.py").write_text(MODULE)
    install_target(site, "remembering", "cluster_targets:REMEMBERING", "remembering")
    install_target(site, "slotted", "cluster_targets:SLOTTED", "slotted")
    monkeypatch.setenv("PYTHONPATH", installed.environment["PYTHONPATH"])
    return installed


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


def changed(*paths: str, by: int = 0xFF) -> bytes:
    """The seed with the first byte of these fields changed."""
    target = load_target("reference")
    stream = next(item.stream for item in target.seeds() if item.name == SEED)
    tree, data = target.parse(stream), bytearray(stream)
    for path in paths:
        data[tree.find(path).start] ^= by
    return bytes(data)


def campaign(folder: Path, *streams: bytes) -> CampaignFolder:
    made = open_folder(folder / "mine", "remembering")
    for name in ("corpus", "findings"):
        (made.path / name).mkdir()
    for stream in streams:
        made.corpus.add(stream)
    return made


# -- whole campaigns --------------------------------------------------------------------------


def test_a_sequence_that_a_cluster_finds_is_confirmed_and_kept_with_its_script(
    remote: Installed,
) -> None:
    mine = remote.folder / "mine"
    with none_left(remote.folder.parent):
        remote.run("run", "remembering", "--workers", "1", "--execs", "1", "--out", "mine")
        for stream in (changed("hpet/config"), changed("hpet/config", "cpu/pc")):
            Corpus(mine / "corpus").add(stream)
        done = remote.run(
            "run", "remembering", "--cluster", "local", "--workers", "2", "--seed", "5",
            "--execs", "3000", "--out", "mine", "--json",
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    value = json.loads(done.stdout)
    assert not [text for text in value["warnings"] if "does not happen here" in text]
    assert not (mine / INCOMING).exists()
    seeds = seeds_of(mine).read()
    assert seeds == frozenset({digest_of(changed())})
    found = {item["signature"]: remote.folder / item["folder"] for item in value["findings"]}
    assert {"clean-error:SIGABRT at reset.c:reset", "clean-error:SIGSEGV at cpu/pc"} <= set(found)
    for place in found.values():
        assert (place / "image.qcow2").read_bytes() == IMAGE
        assert os.access(place / "reproduce.sh", os.X_OK)
        assert "sh reproduce.sh" in (place / "report.txt").read_text()
        finding = read_finding(place)
        # Told apart from what is known to be good, not from another mutant.
        assert finding.parent in seeds
    planted = found["clean-error:SIGABRT at reset.c:reset"]
    assert len(read_finding(planted).input.before) == 1
    assert remote.run("replay", str(planted)).returncode == 1
    ledger = json.loads((mine / "stats" / "cluster.json").read_text())
    assert ledger["admitted"] >= 1
    assert value["corpus"] == 3 + ledger["admitted"]


@contextmanager
def cluster(installed: Installed, places: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A scheduler with a worker of three threads at each place; yields its address.

    Args:
        installed: where everything is.
        places: the name of each, and what it declares.
    """
    folder = installed.folder.parent / "dask"
    folder.mkdir()
    contact = folder / "scheduler.json"

    def start(stack: ExitStack, *arguments: str, **more: str) -> None:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=folder, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env={**installed.environment, **more},
            )
        )  # fmt: skip
        stack.callback(process.terminate)

    with ExitStack() as stack:
        start(
            stack, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(contact),
        )  # fmt: skip
        until = time.monotonic() + WAIT_S
        while not contact.exists() or not contact.read_bytes().endswith(b"}"):
            assert time.monotonic() < until
            time.sleep(0.05)
        for name, declared in places:
            start(
                stack, "distributed.cli.dask_worker", "--scheduler-file", str(contact),
                "--host", "127.0.0.1", "--nworkers", "1", "--nthreads", "3", "--memory-limit",
                "0", "--no-dashboard", "--local-directory", str(folder), "--name", name,
                *(("--resources", declared) if declared else ()), PLACE=name,
            )  # fmt: skip
        yield json.loads(contact.read_bytes())["address"]


def test_batches_go_where_slots_are_declared_and_no_more_than_there_are(remote: Installed) -> None:
    script, log = remote.folder / "loader.py", remote.folder / "loaded-at"
    script.write_text(LOADER)
    environment = {**remote.environment, "LOADER_SCRIPT": str(script), "LOADED_AT": str(log)}
    shop = Installed(remote.folder, environment)
    # All have come before the first batch is given away.
    with (
        none_left(remote.folder.parent),
        cluster(shop, [("without", ""), ("with", "LOADER=2")]) as address,
    ):
        wait_for_workers(shop, address, 2)
        done = shop.run(
            "run", "slotted", "--cluster", address, "--time", "4s", "--out", "mine", "--json"
        )
    assert done.returncode == 0, done.stderr
    # Batches are run there, and what they send is run here.
    assert set(log.read_text().split()) == {"with", "here"}
    ledger = json.loads((remote.folder / "mine" / "stats" / "cluster.json").read_text())
    assert ledger["lanes"] == 2


def wait_for_workers(installed: Installed, address: str, count: int) -> None:
    code = (
        "import sys; from distributed import Client; "
        "Client(sys.argv[1]).wait_for_workers(int(sys.argv[2]), timeout=60)"
    )
    subprocess.run(
        [sys.executable, "-c", code, address, str(count)], env=installed.environment, check=True,
        capture_output=True, timeout=WAIT_S,
    )  # fmt: skip


def test_a_command_is_found_by_a_path_from_here_on_a_cluster_of_this_machine(
    installed: Installed,
) -> None:
    loader = installed.folder / "loader.py"
    loader.write_text(f"#!{sys.executable} -IS\n")
    loader.chmod(0o755)
    with none_left(installed.folder.parent):
        done = installed.run(
            "run", "--command", "./loader.py {input}", "--cluster", "local", "--workers", "1",
            "--execs", "50", "--out", "mine", "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["executions"] == 50


@pytest.mark.qemu
def test_a_cluster_fuzzes_a_real_qemu_and_leaves_none_behind(
    installed: Installed, qemu_binary: str
) -> None:
    with none_left(installed.folder.parent):
        done = installed.run(
            "run", "qemu:none", "--qemu", qemu_binary, "--cluster", "local", "--workers", "1",
            "--execs", "400", "--out", "mine", "--json",
        )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    value = json.loads(done.stdout)
    assert value["executions"] >= 400
    mine = installed.folder / "mine"
    ledger = json.loads((mine / "stats" / "cluster.json").read_text())
    assert ledger["lost"] == 0
    assert ledger["admitted"] >= 5
    for place in finding_folders(mine / "findings"):
        assert os.access(place / "reproduce.sh", os.X_OK)
        assert (place / "image.qcow2").is_file()


def test_a_qemu_needs_a_slot_in_whatever_form() -> None:
    for name in ("qemu", "qemu:pc", "qemu:none,memory=8"):
        target = load_any_target(name)
        assert isinstance(target, NeedsSlots)
        assert target.slot == "QEMU"
    assert not isinstance(load_any_target("command:true"), NeedsSlots)


# -- nothing is believed before it was run here -----------------------------------------------


def ask(folder: CampaignFolder, *streams: bytes) -> list[Answer]:
    """What each shows, one after the other."""

    async def run() -> list[Answer]:
        answers = []
        async with Admission("remembering", folder.path, 2.0, lambda answer: None) as admission:
            [process] = [p for p in psutil.Process().children() if "admit" in str(p.cmdline())]
            for stream in streams:
                answer = await admission.admit(stream)
                assert answer is not None
                answers.append(answer)
            assert process.is_running()
        return answers

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["intc/irr", "hpet/isr"])
def test_a_stream_is_not_blamed_for_what_another_one_did_before(
    remote: Installed, path: str
) -> None:
    folder = campaign(remote.folder, changed())
    did, innocent = ask(folder, changed(path), changed("hpet/config"))
    assert did.accepted
    assert innocent.accepted
    assert not innocent.worth


def test_a_loader_that_ends_is_renewed_and_the_next_stream_is_asked_about(
    remote: Installed,
) -> None:
    folder = campaign(remote.folder, changed())
    died, good, refused = ask(folder, changed("cpu/pc"), changed("hpet/config"), b"QEVM")
    assert (died.accepted, died.worth) == (False, True)
    assert (good.accepted, good.worth) == (True, False)
    assert (refused.accepted, refused.worth) == (False, True)
    assert digest_of(b"QEVM") in set(folder.corpus.digests())


def test_trouble_with_the_machinery_shows_nothing_and_is_said(remote: Installed) -> None:
    folder = campaign(remote.folder, changed())
    trouble, refused = ask(folder, changed("cpu/flags"), b"QEVM")
    assert "nobody answers" in trouble.trouble
    assert (trouble.worth, trouble.names) == (False, ())
    assert refused.worth
    assert digest_of(changed("cpu/flags")) not in set(folder.corpus.digests())


def test_a_loader_with_nothing_but_trouble_is_given_up(remote: Installed) -> None:
    folder = campaign(remote.folder, changed())
    streams = [changed("cpu/flags", by=number) for number in range(1, TROUBLES_MAX + 1)]
    assert len(ask(folder, *streams[1:])) == TROUBLES_MAX - 1
    with pytest.raises(InfraError, match=f"{TROUBLES_MAX} streams in a row"):
        ask(folder, *streams)
    assert not (folder.path / INCOMING).exists()


class Flaky(RememberingExecutor):
    """Fails so many times, and then loads."""

    def __init__(self, failures: int) -> None:
        super().__init__({}, changed())
        self.failures = failures

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        """See :meth:`loadfuzz.abc.Executor.execute`."""
        if self.failures:
            self.failures -= 1
            raise InfraError("somebody killed it")
        return await super().execute(stream, closely=closely)


def test_a_stream_is_tried_once_more_where_the_loader_was_killed_and_then_left_alone() -> None:
    target = RememberingTarget(load_target("reference"), SEED, [])
    once, twice = Flaky(1), Flaky(2)

    async def look() -> None:
        assert (await Witness(target, once).look(changed())).kind is ExitKind.ACCEPTED
        assert once.generation == 1
        witness = Witness(target, twice)
        with pytest.raises(NothingSeenError, match="somebody killed it"):
            await witness.look(changed())
        assert (await witness.look(changed())).kind is ExitKind.ACCEPTED

    asyncio.run(look())


# -- parcels ----------------------------------------------------------------------------------


def test_seeds_travel_with_every_parcel_the_smallest_first(tmp_path: Path) -> None:
    streams = [bytes([number]) * (number + 1) for number in range(SEEDS_MAX + 2)]
    folder = campaign(tmp_path, *streams)
    assert Seeds.of(folder) == Seeds()
    seeds_of(folder.path).add([*map(digest_of, streams), digest_of(b"gone")])
    seeds = Seeds.of(folder)
    assert seeds.carried == tuple(map(digest_of, streams[:SEEDS_MAX]))
    assert digest_of(streams[-1]) in seeds.known


def test_seeds_that_are_too_long_stay_but_for_one(tmp_path: Path) -> None:
    streams = [bytes([number]) * (SEED_BYTES_MAX + number) for number in range(2)]
    folder = campaign(tmp_path, *streams)
    seeds_of(folder.path).add(map(digest_of, streams))
    assert Seeds.of(folder).carried == (digest_of(streams[0]),)


def do_parcel(place: Path) -> list[Message]:
    """One with a seed and two mutants, of which one ends the loader."""
    streams = (changed(), changed("hpet/config"), changed("hpet/config", "cpu/pc"))
    settings = Settings("remembering", Engine.NATIVE, 7, 1, None, 5)
    outsiders = (digest_of(streams[2]),)
    parcel = Parcel(
        0, settings, Engine.NATIVE, b"", streams, outsiders, (digest_of(streams[0]),)
    )  # fmt: skip
    place.mkdir()
    (place / PARCEL).write_bytes(codec.encode(parcel))
    sent: list[Message] = []
    work(place, sent.append, SystemClock())
    return sent


def test_a_worker_elsewhere_knows_which_streams_are_seeds(remote: Installed) -> None:
    folder = campaign(remote.folder)
    sent = do_parcel(remote.folder / "there")
    assert sent[-1] == Finished(judged=True, problem="")
    [found] = [item for item in sent if isinstance(item, Found)]
    told = adopt_finding(folder, found.files, 0, "remembering")
    assert isinstance(told, FindingAnnounced)
    assert told.signature == "clean-error:SIGSEGV at cpu/pc"
    finding = read_finding(folder.path / told.folder)
    assert finding.parent_stream == changed()
    assert [item.path for item in finding.mutations] == ["cpu/pc"]


def test_a_finding_that_is_too_large_travels_without_what_its_target_added(
    remote: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = remote.folder.parent / "site" / "cluster_targets.py"
    site.write_text(site.read_text().replace('"image.qcow2": ', '"image.qcow2": 10_000 * '))
    monkeypatch.setattr(parcel_worker, "FILES_SIZE_MAX", 10_000 * len(IMAGE))
    [found] = [item for item in do_parcel(remote.folder / "there") if isinstance(item, Found)]
    assert set(found.files) == {"input", "parent", "finding.json", "report.txt"}
    assert isinstance(
        adopt_finding(campaign(remote.folder), found.files, 0, "remembering"), FindingAnnounced
    )


def test_a_finding_that_is_much_too_large_is_said_to_be_lost(
    remote: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel_worker, "FILES_SIZE_MAX", 10)
    sent = do_parcel(remote.folder / "there")
    assert not any(isinstance(item, Found) for item in sent)
    warned = [
        item.event.text for item in sent
        if isinstance(item, Told) and isinstance(item.event, MachineryWarning)
    ]  # fmt: skip
    assert any("too many to be sent" in text for text in warned)


# -- findings ---------------------------------------------------------------------------------


def files_of(place: Path, extra: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a finding of three streams, as made elsewhere."""
    finding = Finding(
        "remembering", Input(b"QEVM last", before=(b"QEVM first", b"QEVM second")),
        Violation("clean-error", "it died", "x", "y", "place"), SILENT,
        earlier=(Earlier(b"QEVM seed"), Earlier()),
    )  # fmt: skip
    written = write_finding(place, finding, extra)
    assert written is not None
    return {path.name: path.read_bytes() for path in (place / written).iterdir()}


def test_all_streams_and_files_of_a_finding_arrive(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    files = files_of(there, {"reproduce.sh": b"exit 1", "image.qcow2": IMAGE})
    folder = campaign(tmp_path)
    told = adopt_finding(folder, files, 3, "remembering")
    assert isinstance(told, FindingAnnounced)
    place = folder.path / told.folder
    assert read_finding(place).input.before == (b"QEVM first", b"QEVM second")
    assert {path.name for path in place.iterdir()} == set(files)
    assert (place / "image.qcow2").read_bytes() == IMAGE
    assert os.access(place / "reproduce.sh", os.X_OK)
    assert not os.access(place / "image.qcow2", os.X_OK)
    report = (place / "report.txt").read_text()
    assert str(place) in report
    assert str(there) not in report


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"before-0": b"x"}, "cannot name a further file"),
        ({"../../x": b"x"}, "cannot name a further file"),
        ({f"file-{number}": b"" for number in range(EXTRA_FILES_MAX + 1)}, "beside its own"),
        ({"large": bytes((1 << 26) + 1)}, "bytes, more than"),
    ],
    ids=["before-none", "escape", "many", "large"],
)
def test_a_finding_with_further_files_that_it_may_not_have_is_refused(
    tmp_path: Path, more: dict[str, bytes], said: str
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    files = files_of(there, {})
    folder = campaign(tmp_path)
    with pytest.raises(UsageError, match=said):
        adopt_finding(folder, {**files, **more}, 0, "remembering")
    assert list(folder.findings.iterdir()) == []
    assert sorted(os.listdir(tmp_path)) == ["mine", "there"]
