"""The configuration section: machine type, page size, capabilities, UUID; magic and version."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "configuration",
    "the configuration section, magic and version",
    operators={"configuration*": 8, "header": 2},
    seeds=("none-*", "cpu-uuid", "small-without-configuration"),
    devices=("none", "small", "cpu"),
)

test_configuration = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
