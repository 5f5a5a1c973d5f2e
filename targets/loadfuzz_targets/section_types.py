"""Section types: sections of a kind that they are not, or of no kind at all.

START where FULL should be, PART before START, a type byte that nobody knows, sections
that are missing, twice, or in another order.
"""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "section-types",
    "sections of other types, missing, twice, in another order",
    operators={
        "section-type": 6,
        "section-retype": 6,
        "section-drop": 3,
        "section-duplicate": 3,
        "section-swap": 2,
        "stream-cut": 1,
    },
    seeds=("small-*", "ram-*"),
    devices=("small",),
)

test_section_types = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
