"""B25: the section id in a footer is read and not looked at."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, footer_leaf
from savevm.constants import QEMU_VM_SECTION_FOOTER
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry
from savevm.recording import Role


def _plant(site: Site) -> Parts:
    class LoaderThatTrustsFooters(Loader):
        """Content with the mark."""

        def check_section_footer(self, le: LoadStateEntry) -> None:
            if self.machine.skip_section_footers:
                return
            offset = self.f.tell()
            if self.f.get_byte() != QEMU_VM_SECTION_FOOTER:
                raise LoadError("no footer", offset=offset, path=("footer",))
            site.canary.check(self.f.get_be32() != le.section_id)

    return Parts(loader=LoaderThatTrustsFooters)


def _example() -> bytes:
    tree = document("ram-ran")
    return tree.with_value(footer_leaf(tree, "ram", Role.FOOTER_ID, "START"), 77)


FOOTER_ID: Final = PlantedBug(
    BugRow(
        name="footer-id-ignored",
        bug_class="B25",
        device="*",
        field="footer",
        trigger="a footer with the id of another section",
        oracle="footer",
        evidence=r"^(FULL|live)$",
        mirrors="before QEMU f68945d42b no section had a footer to check",
    ),
    _plant,
    _example,
)
