"""B01: the month indexes a table in post_load before anybody has looked at it."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.devices.base import Fault
from savevm.devices.rtc import Rtc


class RtcWithAnyMonth(Rtc):
    """Takes the calendar as it comes."""

    def check_calendar(self) -> Fault | None:
        return None


RTC_MONTH: Final = PlantedBug(
    name="rtc-month-unchecked",
    bug_class="B01",
    device="mc146818rtc",
    field="calendar.mon",
    trigger="a month above 11, or below -12",
    oracle="clean-error",
    mirrors="CVE-2013-4530 (QEMU d8d0a0bc7e): PL022, FIFO heads unchecked in post_load",
    devices={"rtc": RtcWithAnyMonth},
)
