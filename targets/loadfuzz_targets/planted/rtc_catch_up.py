"""B44: interrupts that were missed are made up for one by one, however long ago."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.rtc import Rtc

_ENDLESS: Final = 1 << 25
"""Periods that take a second or more to make up for."""


def _plant(site: Site) -> Parts:
    class RtcThatCatchesUp(Rtc):
        """Goes from one period to the next until it is now."""

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            step = self.period * 30_517
            now, at = self.machine.clock.now_ns, self.next_periodic_time
            if not step or not self.periodic_timer.pending():
                return
            site.canary.check((now - at) // step >= _ENDLESS)
            missed = 0
            while at < now:
                at += step
                missed += 1

    return Parts(devices={"rtc": RtcThatCatchesUp})


def _example() -> bytes:
    return with_value("rtc-ran", "mc146818rtc/next_periodic_time", -(1 << 62))


RTC_CATCH_UP: Final = PlantedBug(
    BugRow(
        name="rtc-catch-up",
        bug_class="B44",
        device="mc146818rtc",
        field="next_periodic_time",
        trigger="a periodic interrupt that was due ages ago, and a period",
        oracle="no-hang",
        evidence=r"^rtc_catch_up\.py:",
        mirrors="timer_get of the seed hands a uint64_t to an int64_t: due in the past",
    ),
    _plant,
    _example,
)
