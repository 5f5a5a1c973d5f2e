"""B26: a footer is compared with the number that the destination gave the device."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, section
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry
from savevm.recording import Role


def _plant(site: Site) -> Parts:
    class LoaderWithIdsOfItsOwn(Loader):
        """Counts registrations as the source did, it thinks."""

        def check_section_footer(self, le: LoadStateEntry) -> None:
            foreign = le.section_id not in {se.section_id for se in self.machine.savevm.handlers}
            site.canary.check(foreign and self.has_footer())
            if foreign and self.has_footer():
                raise LoadError(
                    f"a footer for {le.section_id:#x}, not for {le.se.section_id:#x}",
                    offset=self.f.tell(),
                    path=("footer",),
                )
            super().check_section_footer(le)

    return Parts(loader=LoaderWithIdsOfItsOwn)


def _example() -> bytes:
    tree = document("none-ran")
    node = section(tree, "timer")
    return tree.with_value(node.header(Role.SECTION_ID), 99)


FOOTER_OWN_ID: Final = PlantedBug(
    BugRow(
        name="footer-own-id",
        bug_class="B26",
        device="*",
        field="footer",
        trigger="a section with a number that this machine gave to no device",
        oracle="no-false-reject",
        evidence=r"footer$",
        mirrors="QEMU 59f39a4741: check_section_footer compared with the local section_id of "
        "that very device; here a number is good if any device has it, or nothing would load",
    ),
    _plant,
    _example,
)
