"""B10: the index into CMOS memory may be equal to its size."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault, outside
from savevm.devices.rtc import CMOS_BYTES, Rtc


def _plant(site: Site) -> Parts:
    class RtcWithOneIndexMore(Rtc):
        """Compares with > where >= is meant."""

        def check_index(self) -> Fault | None:
            site.canary.check(self.cmos_index == CMOS_BYTES)
            return outside("cmos_index", self.cmos_index, 0, CMOS_BYTES)

    return Parts(devices={"rtc": RtcWithOneIndexMore})


def _example() -> bytes:
    return with_value("rtc-ran", "mc146818rtc/cmos_index", 128)


RTC_INDEX: Final = PlantedBug(
    BugRow(
        name="rtc-index-off-by-one",
        bug_class="B10",
        device="mc146818rtc",
        field="cmos_index",
        trigger="an index of 128",
        oracle="invariants",
        evidence=r"^rtc/cmos_index|^steps/.*rtc\.py:",
        mirrors="QEMU f6969b9fef (xHCI, endpoints to 32) and 810bf31a1b (multifd, id > channels)",
    ),
    _plant,
    _example,
)
