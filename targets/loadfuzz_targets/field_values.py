"""Field values: integers at their bounds, counts against arrays, relations between fields."""

from typing import Final

from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget

TARGET: Final = FocusedTarget(
    "field-values",
    "values of fields: bounds, counts against arrays, relations",
    operators={"field-*": 1},
)

test_field_values = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
