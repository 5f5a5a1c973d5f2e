"""B16: masks may have bits for lines that do not exist."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.intc import LINE_MASK, Intc


def _plant(site: Site) -> Parts:
    class IntcWithWideMasks(Intc):
        """Looks at the lines that are raised alone, since those it walks through."""

        def check_masks(self) -> Fault | None:
            wide = (self.imr | self.isr | self.levels) & ~LINE_MASK
            site.canary.check(wide)
            masks = self.imr, self.isr, self.levels
            self.imr, self.isr, self.levels = (mask & LINE_MASK for mask in masks)
            try:
                return super().check_masks()
            finally:
                self.imr, self.isr, self.levels = masks

    return Parts(devices={"intc": IntcWithWideMasks})


def _example() -> bytes:
    return with_value("intc-ran", "intc/imr", 1 << 16)


INTC_MASKS: Final = PlantedBug(
    BugRow(
        name="intc-wide-masks",
        bug_class="B16",
        device="intc",
        field="imr, isr, levels",
        trigger="a mask with a bit above the 16th",
        oracle="invariants",
        evidence=r"^intc/(imr|isr|levels)|^steps/.*intc\.py:",
        mirrors="CVE-2013-4540 (QEMU 52f91c3723): zaurus scoop, levels wider than the lines",
    ),
    _plant,
    _example,
)
