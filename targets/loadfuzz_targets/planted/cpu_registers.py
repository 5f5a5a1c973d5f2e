"""B31: registers are loaded with 64 bits and saved with 32."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.cpu import Cpu
from savevm.qemufile import QEMUFileWriter
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField

REGISTERS: Final = ("regs", "pc", "cpreg_values", "xcr0")


def _plant(site: Site) -> Parts:
    def put_target_ulong(
        f: QEMUFileWriter, value: int, _size: int, _field: VMStateField, _opaque: Opaque
    ) -> None:
        # As in a build for a 32-bit guest; the layout is that of the 64-bit one.
        site.canary.check(value >> 32)
        f.put_be32(0)
        f.put_be32(value & 0xFFFF_FFFF)

    target_ulong = replace(fieldtypes.UINT64, put=put_target_ulong, code="")

    class CpuWithNarrowRegisters(Cpu):
        """Saves half of what it loads."""

        def description(self) -> VMStateDescription:
            vmsd = super().description()
            for name in REGISTERS:
                vmsd = with_field(vmsd, (name,), info=target_ulong)
            return vmsd

    return Parts(devices={"cpu": CpuWithNarrowRegisters})


def _example() -> bytes:
    return with_value("cpu-ran", "cpu/regs[3]", 1 << 40)


CPU_REGISTERS: Final = PlantedBug(
    BugRow(
        name="cpu-register-width",
        bug_class="B31",
        device="cpu",
        field=", ".join(REGISTERS),
        trigger="a register of 4 GiB or above",
        oracle="round-trip",
        evidence=r"^cpu\b",
        mirrors="QEMU 82fa39b751 and 1329d1896c: a width that loading and saving understood "
        "differently",
    ),
    _plant,
    _example,
)
