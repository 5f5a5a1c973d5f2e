"""B04: a count is compared with its greatest value alone; a negative one is a huge size."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.kinds import Kinds, counts_fault
from savevm.qemufile import QEMUFileReader
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _plant(site: Site) -> Parts:
    class KindsWithNegativePages(Kinds):
        """Allocates what the count says."""

        def check_counts(self) -> Fault | None:
            count = self.pages_count
            site.canary.check(count < 0)
            self.pages_count = max(count, 0)
            try:
                return counts_fault(self)
            finally:
                self.pages_count = count

        def description(self) -> VMStateDescription:
            def get(
                f: QEMUFileReader, current: bytearray, size: int, field: VMStateField, o: Opaque
            ) -> bytearray:
                if size < 0:
                    # In C: g_malloc((size_t)size).
                    site.heap.alloc(size, "kinds/pages").free()
                result: bytearray = fieldtypes.BUFFER.get(f, current, size, field, o)
                return result

            info = replace(fieldtypes.BUFFER, get=get)
            return with_field(super().description(), ("pages",), info=info)

    return Parts(devices={"kinds": KindsWithNegativePages})


def _example() -> bytes:
    return with_value("kinds-ran", "kinds/pages_count", -1)


KINDS_NEGATIVE_COUNT: Final = PlantedBug(
    BugRow(
        name="kinds-negative-count",
        bug_class="B04",
        device="kinds",
        field="pages_count",
        trigger="a negative number of pages",
        oracle="clean-error",
        evidence=r"^Abort at kinds_negative_count\.py:",
        mirrors="CVE-2013-4531 (QEMU d2ef4b61fe): cpreg_vmstate_array_len negative",
    ),
    _plant,
    _example,
)
