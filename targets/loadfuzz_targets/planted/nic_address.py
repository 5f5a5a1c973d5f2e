"""B31: a descriptor's address is loaded with 64 bits and saved with 32."""

from dataclasses import replace
from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.descriptions import with_field
from savevm.devices.nic import Nic
from savevm.qemufile import QEMUFileWriter
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _put_low_half(
    f: QEMUFileWriter, value: int, _size: int, _field: VMStateField, _opaque: Opaque
) -> None:
    # "DMA is below 4 GiB": true of the guests it was tried with.
    f.put_be32(0)
    f.put_be32(value & 0xFFFF_FFFF)


_ADDRESS: Final = replace(fieldtypes.UINT64, put=_put_low_half, code="")


class NicWithNarrowAddresses(Nic):
    """Saves what it loads, half of it."""

    def description(self) -> VMStateDescription:
        whole = super().description()
        for ring in ("tx", "rx"):
            whole = with_field(whole, (ring, "descriptors", "address"), info=_ADDRESS)
        return whole


NIC_ADDRESS: Final = PlantedBug(
    name="nic-address-width",
    bug_class="B31",
    device="nic",
    field="tx.descriptors[].address, rx.descriptors[].address",
    trigger="an address of 4 GiB or above",
    oracle="round-trip",
    mirrors="QEMU 82fa39b751 and 1329d1896c: a width that loading and saving understood "
    "differently",
    devices={"nic": NicWithNarrowAddresses},
)
