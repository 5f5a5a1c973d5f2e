"""Drawn inputs replay, and findings become examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from loadfuzz.errors import LoadfuzzError
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Input
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.plugins import load_target
from loadfuzz.repro.folder import write_finding
from loadfuzz.testing.strategies import (
    MutatedStream,
    example_line,
    example_of,
    inputs,
    mutated_streams,
)
from loadfuzz.testing.trials import CRASHED, GOOD

TARGET = load_target("section-types")
DOCS = Path(__file__).parents[2] / "docs"


@given(mutated_streams(TARGET))
@settings(max_examples=60, deadline=None)
def test_a_drawn_child_is_what_its_records_make_of_its_parent(mutated: MutatedStream) -> None:
    assert apply(mutated.records, mutated.parent) == mutated.child


@given(inputs(TARGET))
@settings(max_examples=30, deadline=None)
def test_a_drawn_delivery_has_no_empty_piece(item: Input) -> None:
    assert all(size > 0 for size in item.delivery.chunks)


def test_without_parents_nothing_can_be_drawn() -> None:
    with pytest.raises(ValueError, match="has no seeds"):
        mutated_streams(TARGET, [])


def test_a_finding_becomes_an_example(tmp_path: Path) -> None:
    record = Mutation("raw-bit", "", (Splice(0, 1, b"X"),))
    finding = Finding(
        target="section-types", input=Input(b"X" + GOOD[1:]),
        violation=Violation("clean-error", "t", "e", "a", "p"), execution=CRASHED.execution,
        parent_stream=GOOD, mutations=(record,),
    )  # fmt: skip
    name = write_finding(tmp_path, finding)
    assert name is not None
    (folder,) = (tmp_path / "findings").iterdir()
    found = example_of(folder)
    assert found == MutatedStream(GOOD, (record,), b"X" + GOOD[1:])
    assert apply(found.records, found.parent) == found.child
    assert example_line(folder) == f"@example(example_of({str(folder)!r}))"


def test_a_folder_without_a_finding_is_no_example(tmp_path: Path) -> None:
    with pytest.raises(LoadfuzzError):
        example_of(tmp_path)


def test_the_listing_of_the_page_is_a_file_that_passes(tmp_path: Path) -> None:
    path = DOCS / "examples" / "test_my_loader.py"
    body = path.read_text().partition("@given")[2].rstrip()
    assert body in (DOCS / "property-tests.md").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
