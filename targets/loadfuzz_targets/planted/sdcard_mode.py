"""B12: the bounds of a card's indices are checked in one of the modes that use them."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_values
from savevm.devices.base import Fault
from savevm.devices.sdcard import CMDARG, RESPONSE, SdCard, position_fault


def _plant(site: Site) -> Parts:
    class SdCardWithOneModeChecked(SdCard):
        """Forgets that a response has bounds of its own."""

        def check_position(self) -> Fault | None:
            fault = position_fault(self)
            site.canary.check(fault is not None and self.mode == RESPONSE)
            return fault if self.mode == CMDARG else None

    return Parts(devices={"sdcard": SdCardWithOneModeChecked})


def _example() -> bytes:
    return with_values("storage-ran", {"ssi-sd/mode": 2, "ssi-sd/response_pos": 5})


SDCARD_MODE: Final = PlantedBug(
    BugRow(
        name="sdcard-mode-bound",
        bug_class="B12",
        device="ssi-sd",
        field="response_pos, arglen",
        trigger="mode RESPONSE and a position of 5 or more",
        oracle="invariants",
        evidence=r"^sdcard/(response_pos|arglen)|^steps/.*sdcard\.py:",
        mirrors="CVE-2013-4537 (QEMU a9c380db3b): ssi-sd, bounds that depend on the mode",
    ),
    _plant,
    _example,
)
