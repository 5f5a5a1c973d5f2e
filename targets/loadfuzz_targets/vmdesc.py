"""vmdesc: a size that is not that of the text, and a text that is no JSON.

A loader only skips it; what it believes of the size is what counts.
"""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "vmdesc",
    "vmdesc: its size against its text, and a text that is no JSON",
    operators={"vmdesc-*": 8, "stream-cut": 1},
    seeds=("none-fresh", "rtc-fresh"),
    devices=("none", "rtc"),
)

test_vmdesc = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
