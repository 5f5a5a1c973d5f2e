"""Corpora: their manifest, their files, and what verification says of each damage."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.corpus import manifest as manifests
from loadfuzz.corpus.damages import DAMAGES, Damage
from loadfuzz.corpus.making import DAMAGED, SEEDS, Made, make_corpus
from loadfuzz.corpus.manifest import ROWS_MAX, Manifest, Row
from loadfuzz.corpus.store import files_of, read_stream, write_corpus
from loadfuzz.corpus.verify import Judge, verify
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.inputs import STREAM_SIZE_MAX, digest_of
from loadfuzz.plugins import load_target

FOOTER = f"{DAMAGED}/footer-id.stream"
SEED = f"{SEEDS}/none-fresh.stream"


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_target("reference"))


@pytest.fixture(scope="module")
def made() -> Made:
    """Only the rows of two seeds, so that making it costs nothing."""
    whole = make_corpus(load_target("reference"))
    rows = tuple(row for row in whole.manifest.rows if row.file in (FOOTER, SEED))
    return Made(
        replace(whole.manifest, rows=rows), {row.file: whole.streams[row.file] for row in rows}
    )


@pytest.fixture
def corpus(tmp_path: Path, made: Made) -> Path:
    folder = tmp_path / "corpus"
    write_corpus(folder, made.manifest, made.streams)
    return folder


def faults_of(folder: Path, judge: Judge) -> dict[str, str]:
    found = verify(folder, manifests.read(folder), judge)
    return {fault.file: fault.message for fault in found}


def rewrite(folder: Path, **changes: object) -> None:
    """Change the row of the footer."""
    path = folder / manifests.NAME
    content = json.loads(path.read_text())
    for row in content["rows"]:
        if row["file"] == FOOTER:
            row.update(changes)
    path.write_text(json.dumps(content))


# -- verification ----------------------------------------------------------------------------


def test_a_corpus_as_it_was_made_has_no_faults(corpus: Path, judge: Judge) -> None:
    assert faults_of(corpus, judge) == {}


def test_a_missing_file_is_named(corpus: Path, judge: Judge) -> None:
    (corpus / FOOTER).unlink()
    assert "is missing" in faults_of(corpus, judge)[FOOTER]


def test_one_changed_bit_is_seen(corpus: Path, judge: Judge) -> None:
    data = bytearray((corpus / SEED).read_bytes())
    data[0x60] ^= 1
    (corpus / SEED).write_bytes(data)
    assert "damaged: has SHA-256" in faults_of(corpus, judge)[SEED]


def test_a_torn_file_is_named_with_its_size(corpus: Path, judge: Judge) -> None:
    (corpus / SEED).write_bytes((corpus / SEED).read_bytes()[:-1])
    assert "has 704 bytes, its row says 705" in faults_of(corpus, judge)[SEED]


def test_a_file_without_a_row_is_named(corpus: Path, judge: Judge) -> None:
    (corpus / "seeds" / "mine.stream").write_bytes(b"x")
    (corpus / "stray").write_bytes(b"x")
    assert set(faults_of(corpus, judge)) == {"seeds/mine.stream", "stray"}


def test_a_readme_may_lie_beside_the_manifest(corpus: Path, judge: Judge) -> None:
    (corpus / "README.md").write_text("what these are")
    assert faults_of(corpus, judge) == {}


def test_another_verdict_than_expected_is_a_fault(corpus: Path, judge: Judge) -> None:
    rewrite(corpus, verdict="accepted", errno=0, path=[])
    message = faults_of(corpus, judge)[FOOTER]
    assert message.startswith("expected to be accepted, was rejected with errno 22: timer: footer")


@pytest.mark.parametrize("change", [{"errno": 5}, {"path": ["timer"]}], ids=["errno", "place"])
def test_a_refusal_for_another_reason_is_a_fault(
    corpus: Path, judge: Judge, change: dict[str, object]
) -> None:
    rewrite(corpus, **change)
    assert set(faults_of(corpus, judge)) == {FOOTER}


def test_a_link_out_of_the_corpus_is_not_followed(
    corpus: Path, judge: Judge, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((corpus / SEED).read_bytes())
    (corpus / SEED).unlink()
    (corpus / SEED).symlink_to(outside)
    assert "link that leads out" in faults_of(corpus, judge)[SEED]


def test_a_pipe_in_place_of_a_stream_does_not_hang(corpus: Path, judge: Judge) -> None:
    (corpus / SEED).unlink()
    os.mkfifo(corpus / SEED)
    assert "no regular file" in faults_of(corpus, judge)[SEED]


def test_a_folder_in_place_of_a_stream_is_named(corpus: Path, judge: Judge) -> None:
    (corpus / SEED).unlink()
    (corpus / SEED).mkdir()
    assert set(faults_of(corpus, judge)) == {SEED}


def test_a_huge_file_is_not_read_whole(corpus: Path, judge: Judge) -> None:
    with (corpus / SEED).open("r+b") as file:
        file.truncate(1 << 40)
    assert "longer than" in faults_of(corpus, judge)[SEED]


# -- the manifest ------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was(made: Made) -> None:
    assert manifests.decode(manifests.encode(made.manifest), "here") == made.manifest


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "a/./b", "manifest.json", "a\0b", "a\\b"],
)
def test_a_row_may_not_name_what_is_not_inside(file: str, made: Made) -> None:
    row = replace(made.manifest.rows[0], file=file)
    data = manifests.encode(replace(made.manifest, rows=(row,)))
    with pytest.raises(UsageError, match="not a file inside the folder"):
        manifests.decode(data, "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "0" * 63}, "no SHA-256"),
        ({"digest": "G" * 64}, "no SHA-256"),
        ({"size": -1}, "impossible"),
        ({"size": STREAM_SIZE_MAX + 1}, "impossible"),
        ({"verdict": ExitKind.CRASHED}, "no verdict to expect"),
    ],
)
def test_rows_that_make_no_sense_are_refused(
    change: dict[str, object], words: str, made: Made
) -> None:
    row = replace(made.manifest.rows[0], **change)  # type: ignore[arg-type]
    data = manifests.encode(replace(made.manifest, rows=(row,)))
    with pytest.raises(UsageError, match=words):
        manifests.decode(data, "here")


def test_two_rows_for_one_file_are_refused(made: Made) -> None:
    rows = made.manifest.rows + made.manifest.rows[:1]
    with pytest.raises(UsageError, match="two rows"):
        manifests.decode(manifests.encode(replace(made.manifest, rows=rows)), "here")


def test_more_rows_than_anybody_has_are_refused() -> None:
    row = Row("x", "0" * 64, 0, "", ExitKind.ACCEPTED)
    rows = tuple(replace(row, file=f"x{number}") for number in range(ROWS_MAX + 1))
    with pytest.raises(UsageError, match="rows"):
        manifests.decode(manifests.encode(Manifest(1, "reference", "", rows)), "here")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"\xff{", "damaged"),
        (b'{"format_version": 1}', "damaged"),
        (b'{"format_version": 99}', "update loadfuzz"),
        (b'{"format_version": -1, "target": "", "command": "", "rows": []}', "damaged"),
    ],
)
def test_a_damaged_manifest_is_a_usage_error(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        manifests.decode(data, "here")


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loadfuzz seeds make --out"):
        manifests.read(tmp_path)


# -- making and writing ------------------------------------------------------------------------


def test_a_loader_that_answers_otherwise_stops_the_making() -> None:
    lenient = Damage("x", "none-fresh", lambda document: document.to_bytes(), 22, ("timer",), "")
    with pytest.raises(InfraError, match=r"damaged/x\.stream must be rejected"):
        make_corpus(load_target("reference"), [lenient])


def test_a_damage_of_a_seed_that_is_not_there_is_left_out() -> None:
    unknown = replace(DAMAGES[0], seed="no such seed")
    made = make_corpus(load_target("reference"), [unknown])
    assert not any(row.file.startswith(DAMAGED) for row in made.manifest.rows)


def test_names_of_damages_are_unique_and_each_says_why() -> None:
    assert len({damage.name for damage in DAMAGES}) == len(DAMAGES)
    assert all(damage.why for damage in DAMAGES)


def test_writing_again_changes_nothing(corpus: Path, made: Made) -> None:
    assert write_corpus(corpus, made.manifest, made.streams) == []


def test_a_stream_that_is_no_longer_made_goes(corpus: Path, made: Made) -> None:
    rows = tuple(row for row in made.manifest.rows if row.file == SEED)
    write_corpus(corpus, replace(made.manifest, rows=rows), {SEED: made.streams[SEED]})
    assert list(files_of(corpus)) == [SEED]


def test_a_file_of_somebody_else_stays(corpus: Path, made: Made) -> None:
    (corpus / "mine").write_bytes(b"precious")
    write_corpus(corpus, made.manifest, made.streams)
    assert (corpus / "mine").read_bytes() == b"precious"


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, made: Made) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="name a new folder"):
        write_corpus(tmp_path, made.manifest, made.streams)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_a_usage_error(tmp_path: Path, made: Made) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write_corpus(tmp_path / "x", made.manifest, made.streams)


def test_reading_a_stream_gives_its_bytes(corpus: Path, made: Made) -> None:
    assert digest_of(read_stream(corpus, SEED)) == digest_of(made.streams[SEED])
