"""B11: the place in a transfer may be past its length."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault, outside
from savevm.devices.disk import TRANSFER_BYTES, Disk


def _plant(site: Site) -> Parts:
    class DiskWithLooseTransfer(Disk):
        """Checks both numbers, not their relation."""

        def check_transfer(self) -> Fault | None:
            fault = outside("setup_len", self.setup_len, 0, TRANSFER_BYTES)
            fault = fault or outside("setup_index", self.setup_index, 0, TRANSFER_BYTES)
            site.canary.check(fault is None and self.setup_index > self.setup_len)
            return fault

    return Parts(devices={"disk": DiskWithLooseTransfer})


def _example() -> bytes:
    return with_value("disk-ran", "disk/setup_index", 4096)


DISK_TRANSFER: Final = PlantedBug(
    BugRow(
        name="disk-transfer-relation",
        bug_class="B11",
        device="disk",
        field="setup_index, setup_len",
        trigger="a place in the transfer buffer behind the length of the transfer",
        oracle="invariants",
        evidence=r"^disk/setup_index|^steps/",
        mirrors="CVE-2014-3461 (QEMU 719ffe1f5f): USB device, setup_index > setup_len",
    ),
    _plant,
    _example,
)
