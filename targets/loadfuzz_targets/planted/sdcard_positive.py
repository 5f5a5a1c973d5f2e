"""B20: post_load refuses with 1, and whoever called it looks for negative numbers."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.sdcard import SdCard, mode_fault
from savevm.vmstate.description import VMStateDescription


def _plant(site: Site) -> Parts:
    class SdCardThatRefusesWithOne(SdCard):
        """Means to refuse an unknown mode."""

        def check_mode(self) -> Fault | None:
            return None

        def post_load(self, version_id: int) -> int | None:
            super().post_load(version_id)
            wrong = mode_fault(self) is not None
            site.canary.check(wrong)
            return 1 if wrong else 0

        def description(self) -> VMStateDescription:
            def negative_alone(card: SdCardThatRefusesWithOne, version_id: int) -> int:
                return min(card.post_load(version_id) or 0, 0)

            return replace(super().description(), post_load=negative_alone)

    return Parts(devices={"sdcard": SdCardThatRefusesWithOne})


def _example() -> bytes:
    return with_value("storage-ran", "ssi-sd/mode", 9)


SDCARD_POSITIVE: Final = PlantedBug(
    BugRow(
        name="sdcard-positive-refusal",
        bug_class="B20",
        device="ssi-sd",
        field="mode",
        trigger="a mode above 3",
        oracle="invariants",
        evidence=r"^sdcard/mode",
        mirrors="the seed's callers test ret < 0; several devices returned 1 to refuse",
    ),
    _plant,
    _example,
)
