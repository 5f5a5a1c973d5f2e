"""B07: a table of unicast addresses is allocated in entries and filled in bytes."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.nic import ETH_ALEN, MAC_TABLE_ENTRIES, Nic


def _plant(site: Site) -> Parts:
    class NicWithTableInTheWrongUnit(Nic):
        """Keeps a copy of what a table without multicast addresses has."""

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            alone = self.first_multi == self.in_use > 0
            site.canary.check(alone)
            if alone and self.in_use <= MAC_TABLE_ENTRIES:
                table = site.heap.alloc(self.in_use, "nic/unicast table")
                table.write(0, bytes(self.macs[: self.in_use * ETH_ALEN]))
                table.free()

    return Parts(devices={"nic": NicWithTableInTheWrongUnit})


def _example() -> bytes:
    return with_value("full-ran", "0000:00:03.0/nic/first_multi", 1)


NIC_MAC_UNIT: Final = PlantedBug(
    BugRow(
        name="nic-mac-table-unit",
        bug_class="B07",
        device="nic",
        field="in_use, first_multi, macs",
        trigger="a MAC table of unicast addresses alone",
        oracle="no-leak",
        evidence=r"^redzone/nic/unicast table",
        mirrors="CVE-2013-4149 (QEMU 98f93ddd84): virtio-net, malloc(in_use) and read in_use * 6",
    ),
    _plant,
    _example,
)
