"""B22: a load that fails does not give back the buffer it has allocated."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.disk import TRANSFER_BYTES, Disk


def _plant(site: Site) -> Parts:
    class DiskWithBounceBuffer(Disk):
        """Makes the buffer before it looks at anything."""

        def refuse_faults(self) -> None:
            bounce = site.heap.alloc(TRANSFER_BYTES, "disk/bounce buffer")
            wrong = any(check() is not None for check in self.load_checks())
            site.canary.check(wrong)
            super().refuse_faults()
            bounce.free()

    return Parts(devices={"disk": DiskWithBounceBuffer})


def _example() -> bytes:
    return with_value("disk-ran", "disk/num_requests", 3)


DISK_BOUNCE: Final = PlantedBug(
    BugRow(
        name="disk-bounce-leak",
        bug_class="B22",
        device="disk",
        field="any that is checked last",
        trigger="a disk section that is refused at its end",
        oracle="no-leak",
        evidence=r"^pile/heap blocks",
        mirrors="QEMU c84f0f25db: virtio-gpu, half-built resources left by a failed load",
    ),
    _plant,
    _example,
)
