"""B09: a negative number of addresses passes for a small one and is a huge size."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.nic import ETH_ALEN, MAC_TABLE_ENTRIES, Nic, mac_table_fault
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField

_CAPACITY: Final = MAC_TABLE_ENTRIES * ETH_ALEN


def _plant(site: Site) -> Parts:
    class NicWithSignedCount(Nic):
        """Compares as int, multiplies as uint32_t."""

        def check_mac_table(self) -> Fault | None:
            return None if self.in_use > 0x7FFF_FFFF else mac_table_fault(self)

        def description(self) -> VMStateDescription:
            def get(
                f: QEMUFileReader, current: bytearray, size: int, field: VMStateField, o: Opaque
            ) -> bytearray:
                if size // ETH_ALEN <= 0x7FFF_FFFF:
                    site.canary.reached()
                    result: bytearray = fieldtypes.BUFFER.get(f, current, size, field, o)
                    return result
                wrapped = size & 0xFFFF_FFFF
                came = f.peek_buffer(min(wrapped, 1 << 16))
                site.canary.check(len(came) > _CAPACITY)
                macs = site.heap.alloc(_CAPACITY, "nic/macs")
                macs.write(0, came)
                macs.free()
                raise LoadError(f"{wrapped} bytes of addresses", offset=f.tell(), actual=wrapped)

            info = replace(fieldtypes.BUFFER, get=get)
            return with_field(super().description(), ("macs",), info=info)

    return Parts(devices={"nic": NicWithSignedCount})


def _example() -> bytes:
    return with_value("full-ran", "0000:00:03.0/nic/in_use", 0x81000000)


NIC_MAC_SIGNED: Final = PlantedBug(
    BugRow(
        name="nic-mac-table-signed",
        bug_class="B09",
        device="nic",
        field="in_use",
        trigger="a number of addresses that is negative as an int",
        oracle="no-leak",
        evidence=r"^redzone/nic/macs",
        mirrors="CVE-2013-4148 (QEMU 71f7fe48e1): virtio-net, in_use as int",
    ),
    _plant,
    _example,
)
