"""The page about oracles has the tables that trying the planted bugs gives."""

from pathlib import Path

import pytest

from loadfuzz_targets.planted import matrix

PAGE = (Path(__file__).parents[2] / "docs" / "oracles.md").read_text()


@pytest.fixture(scope="module")
def tables() -> str:
    return matrix.tables()


def test_the_page_has_both_tables_as_they_are(tables: str) -> None:
    # Print them again with: python -m loadfuzz_targets.planted.matrix
    assert tables in PAGE


def test_every_oracle_detects_a_bug_that_no_other_one_does(tables: str) -> None:
    oracles, _, _ = tables.partition("\n\n")
    for line in oracles.splitlines()[2:]:
        assert line.split("|")[4].strip(), line
