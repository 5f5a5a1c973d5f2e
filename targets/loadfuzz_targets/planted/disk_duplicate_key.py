"""B42: a second element of one key replaces the first, which nobody frees."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import twice_the_key
from savevm.devices.disk import Disk
from savevm.devices.disk_request import Slot
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.vmstate.containers import GTREE
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _plant(site: Site) -> Parts:
    class DiskWithLostSlots(Disk):
        """Inserts without a look whether the key is there."""

        def description(self) -> VMStateDescription:
            def get(
                f: QEMUFileReader, current: object, size: int, field: VMStateField, o: Opaque
            ) -> dict[int, Slot]:
                try:
                    tree: dict[int, Slot] = GTREE.get(f, current, size, field, o)
                except LoadError as error:
                    twice = "comes twice" in error.reason
                    site.canary.check(twice)
                    if twice:
                        site.heap.alloc(16, "disk/slot")
                    raise
                return tree

            vmsd = super().description()
            for name in ("inflight", "remapped"):
                vmsd = with_field(vmsd, (name,), info=replace(GTREE, get=get))
            return vmsd

    return Parts(devices={"disk": DiskWithLostSlots})


def _example() -> bytes:
    return twice_the_key()


DISK_DUPLICATE_KEY: Final = PlantedBug(
    BugRow(
        name="disk-duplicate-key",
        bug_class="B42",
        device="disk",
        field="inflight, remapped",
        trigger="two elements of a tree with one key",
        oracle="no-leak",
        evidence=r"^pile/heap blocks",
        mirrors="QEMU b0ee78ff31: virtio-gpu, a resource id that is there already",
    ),
    _plant,
    _example,
)
