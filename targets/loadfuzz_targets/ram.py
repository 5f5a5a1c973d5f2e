"""RAM: flags, addresses, names, lengths and encodings of the items of the RAM section."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "ram",
    "items of RAM: flags, addresses, names, lengths, encodings",
    operators={"ram-*": 8, "field-copied": 1},
    seeds=("ram-*",),
    devices=("ram",),
)

test_ram = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
