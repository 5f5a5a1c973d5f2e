"""Footers: missing, marked otherwise, or of another section; and payloads that are not as
long as the footer behind them says.
"""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "footers",
    "footers: missing, marked otherwise, of another section, at another place",
    operators={"footer-*": 8, "section-drop": 1, "section-renumber": 1, "field-resized": 3},
    seeds=("small-*", "nic-*"),
    devices=("small",),
)

test_footers = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
