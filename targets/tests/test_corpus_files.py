"""The corpus of this repository: every row, byte for byte and verdict for verdict."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from loadfuzz.corpus import manifest as manifests
from loadfuzz.corpus.damages import DAMAGES
from loadfuzz.corpus.making import Made, make_corpus
from loadfuzz.corpus.manifest import Row
from loadfuzz.corpus.store import files_of, read_stream
from loadfuzz.corpus.verify import Judge, check_row, verify
from loadfuzz.execution import ExitKind
from loadfuzz_targets.reference import TARGET
from savevm import LoadError
from savevm.board import full_machine
from savevm.load import load_from_bytes
from savevm.profile import STRICT

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
SIZE_MAX = 400_000
"""Bytes of all streams: whoever clones the repository gets them."""
MANIFEST = manifests.read(CORPUS)


def by_file(row: Row) -> str:
    return row.file


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(TARGET)


@cache
def made() -> Made:
    return make_corpus(TARGET)


@pytest.mark.parametrize("row", MANIFEST.rows, ids=by_file)
def test_each_row_has_its_file_its_digest_and_its_verdict(row: Row, judge: Judge) -> None:
    assert check_row(CORPUS, row, judge) == []


@pytest.mark.parametrize("row", MANIFEST.rows, ids=by_file)
def test_each_verdict_is_that_of_the_bare_loader_under_strict(row: Row) -> None:
    machine = full_machine(STRICT)
    before = machine.digest()
    stream = read_stream(CORPUS, row.file)
    if row.verdict is ExitKind.ACCEPTED:
        load_from_bytes(machine, stream)
        return
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine, stream)
    assert (caught.value.errno, caught.value.path) == (row.errno, row.path)
    assert machine.digest() == before


def test_made_again_the_corpus_has_the_same_bytes() -> None:
    again = made()
    changed = [
        file for file, stream in again.streams.items()
        if not (CORPUS / file).is_file() or read_stream(CORPUS, file) != stream
    ]  # fmt: skip
    assert changed == [], "if that is meant: loadfuzz seeds make --out corpus"
    assert manifests.encode(again.manifest) == (CORPUS / manifests.NAME).read_bytes()


def test_no_file_is_there_that_nobody_made() -> None:
    assert list(files_of(CORPUS)) == sorted(made().streams)


def test_the_whole_corpus_verifies(judge: Judge) -> None:
    assert verify(CORPUS, MANIFEST, judge) == []


def test_it_is_small() -> None:
    assert sum(row.size for row in MANIFEST.rows) < SIZE_MAX


def test_every_seed_of_the_reference_and_every_damage_has_a_row() -> None:
    files = {row.file for row in MANIFEST.rows}
    assert files == {f"seeds/{seed.name}.stream" for seed in TARGET.seeds()} | {
        f"damaged/{damage.name}.stream" for damage in DAMAGES
    }


def test_streams_are_refused_for_every_kind_of_reason() -> None:
    refused = [row for row in MANIFEST.rows if row.verdict is ExitKind.REJECTED]
    assert len(refused) >= 30
    assert {row.errno for row in refused} >= {5, 22, 95}
    assert len({row.path for row in refused}) >= 15
