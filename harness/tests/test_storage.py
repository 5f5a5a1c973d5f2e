"""Files that are whole or not there, corpora that notice damage, locks that die."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz import codec, storage
from loadfuzz.errors import UsageError
from loadfuzz.findings import Finding
from loadfuzz.inputs import digest_of
from loadfuzz.storage import (
    Corpus,
    CorruptEntryError,
    FolderLock,
    explain,
    sweep,
    write_atomic,
    write_folder_once,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new", durable=False)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_written_once_and_then_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    assert write_folder_once(path, {"a": b"1", "b": b"2"})
    assert not write_folder_once(path, {"a": b"other"})
    assert {name: (path / name).read_bytes() for name in names(path)} == {"a": b"1", "b": b"2"}
    assert names(tmp_path) == ["folder"]


def test_the_slower_of_two_writers_of_a_folder_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    write_folder_once(path, {"a": b"first"})
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert not write_folder_once(path, {"a": b"second"})
    assert (path / "a").read_bytes() == b"first"
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_leaves_no_half_written_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_folder_once(tmp_path / "folder", {"a": b"1"})
    assert names(tmp_path) == []


def test_sweeping_removes_what_was_not_finished_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"")
    (tmp_path / ".tmp-1-file").write_bytes(b"")
    (tmp_path / ".tmp-1-folder").mkdir()
    (tmp_path / ".tmp-1-folder" / "inside").write_bytes(b"")
    assert sweep(tmp_path) == 2
    assert names(tmp_path) == ["kept"]


@given(st.lists(st.binary(max_size=40)))
def test_a_corpus_holds_each_stream_once_under_its_digest(
    tmp_path_factory: pytest.TempPathFactory, streams: list[bytes]
) -> None:
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    added = [corpus.add(stream) for stream in streams]
    assert len([digest for digest in added if digest is not None]) == len(set(streams))
    assert list(corpus.digests()) == sorted({digest_of(stream) for stream in streams})
    assert {corpus.read(digest) for digest in corpus.digests()} == set(streams)


def test_a_torn_corpus_entry_is_named(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    digest = corpus.add(b"QEVM and so on")
    assert digest is not None
    (tmp_path / digest).write_bytes(b"QEVM and")
    with pytest.raises(CorruptEntryError, match=digest):
        corpus.read(digest)


def test_other_files_in_a_corpus_are_no_entries(tmp_path: Path) -> None:
    (tmp_path / "README").write_bytes(b"")
    (tmp_path / ("g" * 64)).write_bytes(b"")
    assert list(Corpus(tmp_path).digests()) == []


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FolderLock(path):
        with pytest.raises(UsageError, match="another campaign is running"):
            with FolderLock(path):
                pass
    with FolderLock(path):
        pass


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom loadfuzz.storage import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])):\n    print(flush=True); time.sleep(1000)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=environment
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(UsageError):
            FolderLock(path).__enter__()
        owner.kill()
    with FolderLock(path):
        pass


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "--out"),
        (errno.EACCES, "--out"),
        (errno.EMFILE, "ulimit"),
        (errno.EIO, "check the file system"),
    ],
    ids=errno.errorcode.get,
)
def test_what_the_system_says_comes_with_what_to_do(number: int, advice: str) -> None:
    text = str(explain(OSError(number, os.strerror(number)), "writing the event log"))
    assert text.startswith(f"writing the event log failed: {os.strerror(number)}")
    assert advice in text
    assert "Findings so far are kept" in text


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b'{"target": 1}', b"\xff\xfe", b'{"target": "\xff"}'],
)
def test_what_is_no_finding_is_a_damaged_one(data: bytes) -> None:
    with pytest.raises(codec.DamagedError):
        codec.decode(data, Finding)


def test_the_temporary_name_is_the_one_that_is_swept() -> None:
    assert storage._temporary_beside(Path("/x/file")).name.startswith(storage._TEMPORARY)
