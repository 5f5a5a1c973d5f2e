"""B02: the queue that the registers show is loaded unchecked and used by the guest's next
access."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import virtio_with
from savevm.devices.base import Fault
from savevm.devices.virtio import QUEUE_MAX, Virtio


def _plant(site: Site) -> Parts:
    class VirtioWithAnySelector(Virtio):
        """Trusts the selector."""

        def check_queue_sel(self) -> Fault | None:
            site.canary.check(not 0 <= self.queue_sel < QUEUE_MAX)
            return None

    return Parts(devices={"virtio": VirtioWithAnySelector})


def _example() -> bytes:
    return virtio_with(2, 2, 77)


VIRTIO_QUEUE_SEL: Final = PlantedBug(
    BugRow(
        name="virtio-queue-sel",
        bug_class="B02",
        device="virtio-console",
        field="queue_sel",
        trigger="a selector of 4 or more",
        oracle="invariants",
        evidence=r"^virtio/queue_sel|^steps/.*virtio\.py:",
        mirrors="CVE-2013-6399 (QEMU 4b53c2c72c): virtio, queue_sel unchecked",
    ),
    _plant,
    _example,
)
