"""B34: a format of registers that nobody knows is accepted."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.cpu import Cpu
from savevm.devices.fpu import Fpu, format_fault


def _plant(site: Site) -> Parts:
    class FpuOfAnyFormat(Fpu):
        """Reads one format and asks for none."""

        def check_format(self) -> Fault | None:
            site.canary.check(format_fault(self))
            return None

    class CpuWithThatFpu(Cpu):
        """Has it."""

        def __init__(self) -> None:
            super().__init__()
            self.fpu = FpuOfAnyFormat()

    return Parts(devices={"cpu": CpuWithThatFpu})


def _example() -> bytes:
    return with_value("cpu-ran", "cpu/fpu/fpregs_format", 1)


FPU_FORMAT: Final = PlantedBug(
    BugRow(
        name="fpu-format-unknown",
        bug_class="B34",
        device="cpu",
        field="fpu.fpregs_format",
        trigger="a format other than 0",
        oracle="invariants",
        evidence=r"^cpu/fpu\.fpregs_format",
        mirrors="QEMU a346af9c88: a run state that is none; cpu_post_load knows one format",
    ),
    _plant,
    _example,
)
