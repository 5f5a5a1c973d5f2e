"""B29: a subsection's version is kept in eight bits."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.qemufile import QEMUFileReader
from savevm.recording import Role


def _plant(site: Site) -> Parts:
    class ReaderOfShortVersions(QEMUFileReader):
        """Has a uint8_t for it."""

        def get_be32(self, what: str = "") -> int:
            value = super().get_be32(what)
            if what != Role.SUBSECTION_VERSION:
                return value
            site.canary.check(value > 0xFF)
            return value & 0xFF

    return Parts(reader=ReaderOfShortVersions)


def _example() -> bytes:
    tree = document("optional-parts-0")
    return tree.with_value(tree.find("cpu/exception/subsection version"), 0x101)


SUBSECTION_VERSION: Final = PlantedBug(
    BugRow(
        name="subsection-version-cut",
        bug_class="B29",
        device="*",
        field="version of a subsection",
        trigger="a version whose lowest byte is good and whose others are not 0",
        oracle="differential",
        evidence=r".",
        mirrors="uint8_t version_id in vmstate_subsection_load of the seed, and still in 2026",
    ),
    _plant,
    _example,
)
