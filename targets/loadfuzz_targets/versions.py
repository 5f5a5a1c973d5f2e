"""Versions: of sections and subsections, older than can be read and newer than is known."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "versions",
    "versions of sections and subsections, too old and too new",
    operators={"version-id*": 8, "header": 1},
    seeds=("full-oldest-versions", "cpu-*"),
)

test_versions = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
