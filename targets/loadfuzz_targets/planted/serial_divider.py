"""B14: the baud rate generator may be 0, and post_load divides by it."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.serial import Serial


def _plant(site: Site) -> Parts:
    class SerialThatDivides(Serial):
        """Compares with the greatest value alone."""

        def update_char_time(self) -> None:
            site.canary.check(not self.brgr)
            super().update_char_time()

        def check_brgr(self) -> Fault | None:
            return super().check_brgr() if self.brgr else None

    return Parts(devices={"serial": SerialThatDivides})


def _example() -> bytes:
    return with_value("serial-ran", "serial/brgr", 0)


SERIAL_BRGR: Final = PlantedBug(
    BugRow(
        name="serial-divide-by-zero",
        bug_class="B14",
        device="serial",
        field="brgr",
        trigger="a baud rate generator of 0",
        oracle="clean-error",
        evidence=r"^ZeroDivisionError at serial\.py:",
        mirrors="QEMU 450aaae863 (cadence_uart) and b88cfee902 (PL011)",
    ),
    _plant,
    _example,
)
