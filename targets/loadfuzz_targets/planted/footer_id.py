"""B25: the section id in a footer is read and not looked at."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.constants import QEMU_VM_SECTION_FOOTER
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry


class LoaderThatTrustsFooters(Loader):
    """Content with the mark."""

    def check_section_footer(self, le: LoadStateEntry) -> None:
        if self.machine.skip_section_footers:
            return
        offset = self.f.tell()
        if self.f.get_byte() != QEMU_VM_SECTION_FOOTER:
            raise LoadError("no footer", offset=offset, path=("footer",))
        self.f.get_be32()


FOOTER_ID: Final = PlantedBug(
    name="footer-id-ignored",
    bug_class="B25",
    device="*",
    field="footer",
    trigger="a footer with the id of another section",
    oracle="footer",
    mirrors="before QEMU f68945d42b no section had a footer to check",
    loader=LoaderThatTrustsFooters,
)
