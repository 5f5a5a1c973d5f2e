"""B28: a section that comes twice is loaded twice."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, section
from savevm.load import Loader
from savevm.registry import SaveStateEntry


def _plant(site: Site) -> Parts:
    class LoaderThatTakesSectionsTwice(Loader):
        """Keeps no record of what it has loaded."""

        def find_handler(
            self, section_type: int, section_id: int, idstr: str, instance_id: int, start: int
        ) -> SaveStateEntry:
            known = self.handlers
            se = self.machine.savevm.find_se(idstr, instance_id, self.f.profile)
            twice = any(le.se is se or le.section_id == section_id for le in known)
            site.canary.check(se is not None and twice)
            self.handlers = []
            try:
                return super().find_handler(section_type, section_id, idstr, instance_id, start)
            finally:
                self.handlers = known

    return Parts(loader=LoaderThatTakesSectionsTwice)


def _example() -> bytes:
    tree = document("none-ran")
    return tree.duplicated(section(tree, "timer"))


SECTION_TWICE: Final = PlantedBug(
    BugRow(
        name="section-twice",
        bug_class="B28",
        device="*",
        field="section",
        trigger="a FULL or START section of a device that was loaded already",
        oracle="complete",
        evidence=r".",
        mirrors="QEMU f602d047ac: serial, registered and saved twice",
    ),
    _plant,
    _example,
)
