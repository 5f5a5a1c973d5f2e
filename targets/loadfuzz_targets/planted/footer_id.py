"""B25: the section id in a footer is read and not looked at."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, footer_leaf
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry
from savevm.recording import Role


def _plant(site: Site) -> Parts:
    class LoaderThatTrustsFooters(Loader):
        """Content with the mark."""

        def check_section_footer(self, le: LoadStateEntry) -> None:
            site.canary.reached()
            try:
                super().check_section_footer(le)
            except LoadError as error:
                # By now mark and id were read.
                if not error.reason.startswith("expected section id"):
                    raise
                site.canary.triggered()

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
