"""Raw bytes: what somebody would send who knows nothing of the format."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "raw-bytes",
    "bytes changed without looking at what they are",
    operators={"raw*": 1},
    seeds=("small-*", "ram-*", "nic-*"),
    devices=("small",),
)

test_raw_bytes = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
