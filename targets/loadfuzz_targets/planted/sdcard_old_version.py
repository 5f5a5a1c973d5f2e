"""B32: versions before the oldest are taken, and a field that they lack is never set."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, section
from savevm.devices.sdcard import SdCard, vmstate_sdcard
from savevm.recording import Role
from savevm.vmstate.description import VMStateDescription


def _plant(site: Site) -> Parts:
    class SdCardOfAnyAge(SdCard):
        """Sets a field for version 3 alone."""

        def description(self) -> VMStateDescription:
            return replace(super().description(), minimum_version_id=1)

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            old = version_id < vmstate_sdcard.minimum_version_id
            site.canary.check(old)
            if old:
                self.stopping = int.from_bytes(site.heap.garbage(4), "big", signed=True)

    return Parts(devices={"sdcard": SdCardOfAnyAge})


def _example() -> bytes:
    tree = document("storage-ran")
    return tree.with_value(section(tree, "ssi-sd").header(Role.VERSION_ID), 2)


SDCARD_OLD_VERSION: Final = PlantedBug(
    BugRow(
        name="sdcard-old-version",
        bug_class="B32",
        device="ssi-sd",
        field="version, stopping",
        trigger="version 1 or 2 of a section whose oldest is 3",
        oracle="idempotent",
        evidence=r"^state/sdcard",
        mirrors="version gates of 2^k; QEMU 7.2 refuses such a version as too old",
    ),
    _plant,
    _example,
)
