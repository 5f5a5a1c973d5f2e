"""Subsections: missing, twice, unknown, of other versions, and bytes that only look like one."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "subsections",
    "subsections: twice, unknown, of other versions, or only looking like one",
    operators={"subsection*": 8, "version-id*": 2, "counted-string*": 1},
    seeds=("optional-parts-*",),
)

test_subsections = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
