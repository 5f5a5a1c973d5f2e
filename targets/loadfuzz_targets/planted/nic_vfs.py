"""B19: virtual functions are registered by post_load although they are not enabled."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.announce import NICState
from savevm.devices.nic import Nic

_VF_ENABLE: Final = 1 << 15
_NUM_VFS_SHIFT: Final = 8
_NUM_VFS_MAX: Final = 0xF


def _plant(site: Site) -> Parts:
    class NicWithVirtualFunctions(Nic):
        """Keeps NumVFs and VF Enable in high bits of its status."""

        def reset(self) -> None:
            if "status" in self.__dict__ and self.status & _VF_ENABLE:
                nics = self.machine.nics
                del nics[max(len(nics) - self.num_vfs(), 0) :]
            super().reset()

        def num_vfs(self) -> int:
            return self.status >> _NUM_VFS_SHIFT & _NUM_VFS_MAX

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            number = self.num_vfs()
            site.canary.check(number and not self.status & _VF_ENABLE)
            self.machine.nics += [NICState(self.own_mac) for _ in range(number)]

    return Parts(devices={"nic": NicWithVirtualFunctions})


def _example() -> bytes:
    return with_value("nic-ran", "0000:00:03.0/nic/status", 0x0301)


NIC_VFS: Final = PlantedBug(
    BugRow(
        name="nic-vfs-registered",
        bug_class="B19",
        device="nic",
        field="status",
        trigger="a number of virtual functions while they are disabled",
        oracle="no-leak",
        evidence=r"^pile/announced NICs",
        mirrors="CVE-2025-54566 (QEMU cad9aa6fbd): SR-IOV, VFs registered though disabled",
    ),
    _plant,
    _example,
)
