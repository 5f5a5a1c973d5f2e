"""B17: what follows from the lines is taken from the stream instead."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.intc import Intc, next_priority_of


def _plant(site: Site) -> Parts:
    class IntcThatTrustsPriority(Intc):
        """Has no post_load to recompute it."""

        def derive(self, version_id: int) -> None:
            given = self.next_priority
            super().derive(version_id)
            site.canary.check(given != next_priority_of(self))
            self.next_priority = given

    return Parts(devices={"intc": IntcThatTrustsPriority})


def _example() -> bytes:
    return with_value("intc-ran", "intc/next_priority", 3)


INTC_PRIORITY: Final = PlantedBug(
    BugRow(
        name="intc-priority-trusted",
        bug_class="B17",
        device="intc",
        field="next_priority",
        trigger="a priority that does not follow from the lines",
        oracle="invariants",
        evidence=r"^intc/next_priority",
        mirrors="CVE-2013-4534 (QEMU 73d963c0a7): OpenPIC, queues taken as they come",
    ),
    _plant,
    _example,
)
