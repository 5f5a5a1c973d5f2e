"""Seeds in files: read without waiting, without surprise, and without their names' tricks."""

import errno
import os
from pathlib import Path

import pytest

from loadfuzz.campaign import seeding
from loadfuzz.campaign.seeding import BadSeed, check_stream, read_seeds
from loadfuzz.inputs import STREAM_SIZE_MAX, Seed


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "may not be read; check its permissions"),
        (errno.EIO, "cannot be read: Input/output error"),
        (errno.ELOOP, "cannot be read: Too many levels of symbolic links"),
    ],
    ids=errno.errorcode.get,
)
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    path = tmp_path / "seed"
    path.write_bytes(b"QEVM")

    def fail(*arguments: object) -> int:
        raise refuse(number)

    monkeypatch.setattr(os, "open", fail)
    assert list(read_seeds([path])) == [BadSeed(str(path), reason)]


def test_a_directory_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> list[str]:
        raise refuse(errno.EACCES)

    monkeypatch.setattr(os, "listdir", fail)
    assert list(read_seeds([tmp_path])) == [
        BadSeed(str(tmp_path), "may not be read; check its permissions")
    ]


def test_seeds_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / name).write_bytes(b"QEVM" + name.encode())
    found = list(read_seeds([tmp_path, tmp_path / "c"]))
    assert [seed.name for seed in found] == ["a", "b", "c", "c"]
    assert found[0] == Seed("a", b"QEVMa", str(tmp_path / "a"))


def test_the_largest_stream_is_a_seed_and_one_byte_more_is_none() -> None:
    stream = b"QEVM".ljust(STREAM_SIZE_MAX + 1, b"\0")
    assert check_stream(stream[:-1], STREAM_SIZE_MAX) is None
    problem = check_stream(stream, STREAM_SIZE_MAX + 1)
    assert problem is not None
    assert f"{STREAM_SIZE_MAX + 1:,} bytes" in problem


def test_a_directory_of_too_many_files_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "SEED_FILES_MAX", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"QEVM")
    found = list(read_seeds([tmp_path]))
    assert [type(item) for item in found] == [Seed, Seed, BadSeed]
    assert found[2] == BadSeed(str(tmp_path), "has 3 files; only the first 2 were read")
