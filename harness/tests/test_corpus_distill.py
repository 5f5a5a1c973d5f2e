"""Many streams into few: nothing that they show together is lost, and nothing is changed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadfuzz.corpus.distill import distill, merge, open_store
from loadfuzz.corpus.streams import streams_in
from loadfuzz.errors import UsageError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.feedback.novelty import Novelty
from loadfuzz.inputs import Input, digest_of
from loadfuzz.plugins import load_target
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

TARGET = load_target("reference")


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good streams, cut ones, and some twice."""
    folder = tmp_path_factory.mktemp("streams")
    for seed in TARGET.seeds():
        (folder / f"{seed.name}.stream").write_bytes(seed.stream)
        (folder / f"{seed.name}-again.stream").write_bytes(seed.stream)
        for cut in (3, 60, len(seed.stream) // 2):
            (folder / f"{seed.name}-{cut}.stream").write_bytes(seed.stream[:cut])
    return folder


def shown(contents: Iterator[bytes]) -> int:
    novelty = Novelty()
    with Watchdog(2.0) as watchdog:
        executor = InProcessExecutor(TARGET, watchdog)
        for stream in contents:
            novelty.observe(executor.execute(Input(stream)).execution)
    return len(novelty.hits)


def test_what_is_distilled_shows_all_there_is_to_see(streams: Path, tmp_path: Path) -> None:
    paths = streams_in([streams])
    heard: list[tuple[int, int]] = []
    store = open_store(tmp_path / "store")
    merged = distill(TARGET, paths, store, 2.0, lambda *done: heard.append(done))
    kept = list(store.digests())
    assert heard[-1] == (len(paths), len(paths))
    assert merged.streams == len(paths)
    assert merged.kept == len(kept) < len(paths) / 2
    assert merged.known >= len(list(TARGET.seeds()))
    assert shown(map(store.read, kept)) == shown(path.read_bytes() for path in paths)


def test_of_two_streams_that_show_the_same_the_shorter_is_kept(tmp_path: Path) -> None:
    seed = next(seed for seed in TARGET.seeds() if seed.name == "cpu-ran")
    (tmp_path / "a.stream").write_bytes(seed.stream[:40] + bytes(9000))
    (tmp_path / "b.stream").write_bytes(seed.stream[:40] + bytes(8000))
    store = open_store(tmp_path / "store")
    distill(TARGET, streams_in([tmp_path / "a.stream", tmp_path / "b.stream"]), store, 2.0, print)
    assert list(store.digests()) == [digest_of((tmp_path / "b.stream").read_bytes())]


def test_distilling_again_adds_nothing(streams: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    distill(TARGET, streams_in([streams]), store, 2.0, lambda *done: None)
    again = distill(TARGET, streams_in([streams]), store, 2.0, lambda *done: None)
    assert again.kept == 0


def test_merging_keeps_each_content_once(streams: Path, tmp_path: Path) -> None:
    paths = streams_in([streams])
    store = open_store(tmp_path / "store")
    first, second = merge(paths, store), merge(paths, store)
    contents = {path.read_bytes() for path in paths}
    assert (first.kept, first.known) == (len(contents), len(paths) - len(contents))
    assert (second.kept, second.known) == (0, len(paths))
    assert {store.read(digest) for digest in store.digests()} == contents


@pytest.mark.parametrize("name", ["file", "other"])
def test_a_store_holds_streams_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="name a new"):
        open_store(tmp_path / name)
    assert (tmp_path / "other" / "notes.txt").exists()


# -- the command ------------------------------------------------------------------------------


def test_campaigns_give_the_streams_of_their_corpora(installed: Installed) -> None:
    for name in ("one", "two"):
        installed.run("run", "scripted", "--engine", "native", "--workers", "1", "--execs", "60",
                      "--out", name)  # fmt: skip
    value = installed.json("corpus", "merge", "all", "one", "two")
    results = value["results"]
    assert isinstance(results, dict)
    (installed.folder / "one" / "corpus" / ".tmp-1").write_bytes(b"half of something")
    below = installed.json("corpus", "merge", "again", ".")["results"]
    assert isinstance(below, dict)
    assert below["kept"] == results["kept"]
    assert results["kept"] == len(list((installed.folder / "all").iterdir())) > 0
    small = installed.run("corpus", "distill", "small", "all", "--target", "scripted")
    assert small.returncode == 0, small.stderr
    assert "streams are new there" in small.stdout


def test_a_stream_that_crashes_the_loader_is_named_and_not_kept(installed: Installed) -> None:
    (installed.folder / "bad").write_bytes(b"QEVMX")
    done = installed.run("corpus", "distill", "small", "bad", "--target", "scripted",
                         **{SEEDS_VARIABLE: "QEVMa"})  # fmt: skip
    assert done.returncode == 1
    assert "loadfuzz replay bad --target scripted" in done.stderr
    assert not list((installed.folder / "small").iterdir())


@pytest.mark.parametrize("command", ["merge", "distill"])
def test_sources_that_are_not_there_are_named(installed: Installed, command: str) -> None:
    done = installed.run("corpus", command, "store", "nowhere")
    assert done.returncode == 2
    assert "nowhere is no file and no folder" in done.stderr
    assert not (installed.folder / "store").exists()
