"""The page about profiles shows the table as it is."""

from pathlib import Path

from savevm.profile import as_markdown

PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"


def test_the_page_about_profiles_holds_the_present_table() -> None:
    assert as_markdown() in PAGE.read_text()
