"""The page about oracles names every oracle and planted bug as they are."""

from pathlib import Path

import pytest

from loadfuzz.abc import Oracle
from loadfuzz.oracles import ALL
from loadfuzz_targets.planted import manifest

PAGE = (Path(__file__).parents[2] / "docs" / "oracles.md").read_text()


@pytest.mark.parametrize("oracle", ALL, ids=lambda oracle: oracle.name)
def test_the_page_has_the_promise_of_every_oracle(oracle: Oracle) -> None:
    assert f"| `{oracle.name}` | {oracle.promise} |" in PAGE


@pytest.mark.parametrize("row", manifest.rows(), ids=lambda row: row["name"])
def test_the_page_has_the_row_of_every_planted_bug(row: dict[str, str]) -> None:
    assert (
        f"| `{row['name']}` | {row['bug_class']} | {row['device']}, {row['field']} "
        f"| {row['trigger']} | `{row['oracle']}` | {row['mirrors']} |"
    ) in PAGE


def test_every_oracle_has_a_planted_bug() -> None:
    assert {row["oracle"] for row in manifest.rows()} == {oracle.name for oracle in ALL}
