"""B05: the number of lines is taken over only after the array that it sizes was read, and
then it may be anything."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.intc import Intc
from savevm.qemufile import QEMUFileReader
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _plant(site: Site) -> Parts:
    class IntcWithLateCount(Intc):
        """Reads its sources by its own count and keeps the stream's."""

        def description(self) -> VMStateDescription:
            late: dict[str, int] = {}

            def get(
                f: QEMUFileReader, current: int, _size: int, _field: VMStateField, _o: Opaque
            ) -> int:
                late["count"] = f.get_be32("nb_irqs")
                return current

            def post_load(intc: IntcWithLateCount, version_id: int) -> int | None:
                result = intc.post_load(version_id)
                count = late.pop("count", intc.nb_irqs)
                site.canary.check(count != intc.nb_irqs)
                intc.nb_irqs = count
                return result

            info = replace(fieldtypes.UINT32_EQUAL, get=get)
            vmsd = with_field(super().description(), ("nb_irqs",), info=info)
            return replace(vmsd, post_load=post_load)

    return Parts(devices={"intc": IntcWithLateCount})


def _example() -> bytes:
    return with_value("intc-ran", "intc/nb_irqs", 17)


INTC_LATE_COUNT: Final = PlantedBug(
    BugRow(
        name="intc-count-after-array",
        bug_class="B05",
        device="intc",
        field="nb_irqs",
        trigger="a number of lines that is not the machine's",
        oracle="invariants",
        evidence=r"^intc/(sources|nb_irqs)|^steps/",
        mirrors="CVE-2013-4526 (QEMU ae2158ad6c): AHCI, ports loaded behind the array they size",
    ),
    _plant,
    _example,
)
