"""B08: the end of a request is computed in 64 bits that wrap, and then it lies on the disk."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import U64, Fault, first_fault, outside
from savevm.devices.disk import Disk
from savevm.devices.disk_request import DIRECTIONS, REQUEST_SECTORS_MAX, SEGMENTS_MAX, Request


def _plant(site: Site) -> Parts:
    def fault_of(name: str, request: Request, capacity: int) -> Fault | None:
        end = request.sector + request.sectors & U64
        site.canary.check(end <= capacity < request.sector + request.sectors)
        return first_fault(
            (
                outside(f"{name}.segment_count", request.segment_count, 0, SEGMENTS_MAX),
                outside(f"{name}.direction", request.direction, 0, DIRECTIONS - 1),
                outside(f"{name}.sectors", request.sectors, 1, REQUEST_SECTORS_MAX),
                outside(f"{name}.sector", end, 1, capacity),
            )
        )

    class DiskThatAddsSectors(Disk):
        """Compares a sum."""

        def check_requests(self) -> Fault | None:
            return first_fault(
                fault_of(f"requests[{at}]", request, self.capacity)
                for at, request in enumerate(self.requests)
            )

    return Parts(devices={"disk": DiskThatAddsSectors})


def _example() -> bytes:
    return with_value("disk-busy", "disk/requests[0]/sector", (1 << 64) - 1)


DISK_SECTOR_OVERFLOW: Final = PlantedBug(
    BugRow(
        name="disk-sector-overflow",
        bug_class="B08",
        device="disk",
        field="requests.sector",
        trigger="a sector close to 2^64, so that sector + sectors wraps",
        oracle="invariants",
        evidence=r"^disk/requests",
        mirrors="CVE-2013-4148 (QEMU 71f7fe48e1): virtio-net, a size whose product wraps",
    ),
    _plant,
    _example,
)
