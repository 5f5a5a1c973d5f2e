"""B25: the footers of live sections are read and not looked at."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.load import Loader, LoadStateEntry


class LoaderWithoutLiveFooters(Loader):
    """Checks footers where a description was loaded, and only there."""

    def check_section_footer(self, le: LoadStateEntry) -> None:
        if le.se.vmsd is not None or self.machine.skip_section_footers:
            super().check_section_footer(le)
            return
        self.f.get_byte()
        self.f.get_be32()


LIVE_FOOTER: Final = PlantedBug(
    name="live-footer-unchecked",
    bug_class="B25",
    device="ram",
    field="footer",
    trigger="a START, PART or END section with another mark or section id in its footer",
    oracle="footer",
    mirrors="before QEMU f68945d42b no section had a footer to check",
    loader=LoaderWithoutLiveFooters,
)
