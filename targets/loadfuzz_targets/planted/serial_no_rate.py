"""B46: a divider of 0, which a guest may well leave behind, is refused."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.serial import Serial


def _plant(site: Site) -> Parts:
    class SerialThatWantsARate(Serial):
        """Takes a legal state for an impossible one."""

        def check_brgr(self) -> Fault | None:
            site.canary.check(not self.divider)
            if not self.divider:
                return Fault("divider", "no baud rate", None, self.divider)
            return super().check_brgr()

    return Parts(devices={"serial": SerialThatWantsARate})


def _example() -> bytes:
    return with_value("serial-ran", "serial/divider", 0)


SERIAL_NO_RATE: Final = PlantedBug(
    BugRow(
        name="serial-divider-zero",
        bug_class="B46",
        device="serial",
        field="divider",
        trigger="a divider of 0",
        oracle="no-false-reject",
        evidence=r"^serial/divider",
        mirrors="QEMU f30815390a and d68cdae30e: checks that pinned guests to their hosts",
    ),
    _plant,
    _example,
)
