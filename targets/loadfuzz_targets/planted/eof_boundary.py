"""B45: the end of the file reads as 0, and 0 is the mark of a stream's end."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.load import Loader


def _plant(site: Site) -> Parts:
    class LoaderThatReadsZeros(Loader):
        """Looks at no error where a section could begin."""

        def load_next_section(self, depth: int) -> bool:
            ended = not self.f.peek_buffer(1)
            site.canary.check(ended)
            return False if ended else super().load_next_section(depth)

        def check_ended(self, offset: int) -> None:
            if self.f.peek_buffer(1) or self.f.tell() == offset + 1:
                super().check_ended(offset)

    return Parts(loader=LoaderThatReadsZeros)


def _example() -> bytes:
    return document("none-ran").to_bytes()


EOF_BOUNDARY: Final = PlantedBug(
    BugRow(
        name="eof-at-boundary",
        bug_class="B45",
        device="*",
        field="section type",
        trigger="a stream that ends where a section could begin",
        oracle="truncation",
        evidence=r"^boundary",
        mirrors="qemu_get_byte returns 0 at the end; T10 and T11b of a real QEMU's verdicts",
    ),
    _plant,
    _example,
)
