"""Section ids and instance ids: of other sections, of none, and in header and footer alike."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "section-ids",
    "section ids and instance ids, alone or in header and footer alike",
    operators={"section-id": 6, "section-renumber": 6, "instance-id": 4, "section-duplicate": 1},
    seeds=("small-*", "ram-*"),
    devices=("small",),
)

test_section_ids = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
