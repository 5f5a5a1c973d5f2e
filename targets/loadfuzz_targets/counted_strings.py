"""Counted strings: names of sections, subsections and RAM blocks against their length byte."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "counted-strings",
    "names and their length bytes: sections, subsections, RAM blocks",
    operators={"counted-string*": 8, "ram-name": 2, "subsection*": 1},
    seeds=("small-*", "optional-parts-*"),
)

test_counted_strings = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
