"""B43: an address of the guest is used as one of the host."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.disk import Disk


def _plant(site: Site) -> Parts:
    class DiskThatKeepsPointers(Disk):
        """Touches the page that a transfer goes to, so that it is there in time."""

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            memory = site.heap.alloc(1 << 16, "guest memory")
            try:
                site.canary.check(self.dma_address >= 2 << 16)
                memory.read(min(self.dma_address, 1 << 63), 1)
            finally:
                memory.free()

    return Parts(devices={"disk": DiskThatKeepsPointers})


def _example() -> bytes:
    return with_value("disk-ran", "disk/dma_address", 0x7F00_0000_1000)


DISK_HOST_POINTER: Final = PlantedBug(
    BugRow(
        name="disk-host-pointer",
        bug_class="B43",
        device="disk",
        field="dma_address",
        trigger="an address far outside guest memory",
        oracle="clean-error",
        evidence=r"^SegmentationFault at disk_host_pointer\.py:",
        mirrors="QEMU 1cc933453b: virtio-scsi, iovec pointers restored from the stream",
    ),
    _plant,
    _example,
)
