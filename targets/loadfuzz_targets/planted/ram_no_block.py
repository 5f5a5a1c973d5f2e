"""B40: a page of "the same block" before any block was named is written through NULL."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.cmemory import SegmentationFault
from loadfuzz_targets.planted.examples import continued_first_page
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import RAMFlag
from savevm.ram.load import RAMLoader


def _plant(site: Site) -> Parts:
    class RAMLoaderThroughNull(RAMLoader):
        """Does not look at what it found."""

        def find_block(self, flags: int, address: int, start: int) -> RAMBlock:
            missing = bool(flags & RAMFlag.CONTINUE) and self.context.incoming.last_block is None
            site.canary.check(missing)
            if missing:
                raise SegmentationFault(f"address {address:#x} past NULL is not mapped")
            return super().find_block(flags, address, start)

    return Parts(ram=RAMLoaderThroughNull)


def _example() -> bytes:
    return continued_first_page()


RAM_NO_BLOCK: Final = PlantedBug(
    BugRow(
        name="ram-continue-null",
        bug_class="B40",
        device="ram",
        field="flags of a page",
        trigger="CONTINUE in the first page of a stream",
        oracle="clean-error",
        evidence=r"^SegmentationFault at ram_no_block\.py:",
        mirrors="QEMU 492fb99c4b: host_from_stream_offset may be NULL",
    ),
    _plant,
    _example,
)
