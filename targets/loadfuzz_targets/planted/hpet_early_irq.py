"""B18: pending interrupts are raised while the load is still going on."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.hpet import IRQ_LINE, Hpet
from savevm.devices.intc import Intc
from savevm.load import Loader


def _plant(site: Site) -> Parts:
    class HpetThatInterruptsEarly(Hpet):
        """Does in post_load what should wait until the machine runs."""

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            site.canary.reached()
            for tn in range(len(self.timers)):
                if self.isr >> tn & 1:
                    self.raise_irq(IRQ_LINE + tn)

    class LoaderThatLooksOn(Loader):
        """Sees whether a failed load has changed the controller."""

        def load(self) -> None:
            before = self.lines()
            try:
                super().load()
            except BaseException:
                if self.lines() != before:
                    site.canary.triggered()
                raise

        def lines(self) -> tuple[object, ...]:
            intc = self.machine.devices.get("intc")
            if not isinstance(intc, Intc):
                return ()
            return intc.irr, intc.levels, intc.next_priority, tuple(intc.line_counts)

    return Parts(devices={"hpet": HpetThatInterruptsEarly}, loader=LoaderThatLooksOn)


def _example() -> bytes:
    return with_value("timer-ran", "hpet/isr", 1)[:-3]


HPET_EARLY_IRQ: Final = PlantedBug(
    BugRow(
        name="hpet-early-interrupt",
        bug_class="B18",
        device="hpet",
        field="isr",
        trigger="a pending interrupt in a stream without controller that is refused later",
        oracle="atomic",
        evidence=r"^intc$",
        mirrors="QEMU 90c647db8d and cf472f48d5: post_load wrote to a disk too early",
    ),
    _plant,
    _example,
)
