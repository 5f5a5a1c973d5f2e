"""B21: the objection to an exception number is overwritten by the next result."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.cpu import Cpu


def _plant(site: Site) -> Parts:
    class CpuThatLosesAnError(Cpu):
        """Has one variable for two results."""

        def post_load_exception(self, version_id: int) -> int | None:
            site.canary.check(self.check_exception() is not None)
            self.exception_pending = True
            return 0  # of what came next, in the same variable

    return Parts(devices={"cpu": CpuThatLosesAnError})


def _example() -> bytes:
    return with_value("optional-parts-0", "cpu/exception/exception_nr", 200)


CPU_EXCEPTION_ERROR: Final = PlantedBug(
    BugRow(
        name="cpu-exception-error-lost",
        bug_class="B21",
        device="cpu",
        field="exception.exception_nr",
        trigger="an exception number above 31",
        oracle="invariants",
        evidence=r"^cpu/exception_nr|^steps/.*cpu\.py:",
        mirrors="QEMU e502202c9b: spapr, err overwritten by a later assignment",
    ),
    _plant,
    _example,
)
