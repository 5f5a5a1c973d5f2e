"""B39: the last block of one load is what CONTINUE means in the next."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import continued_first_page
from savevm.qemufile import QEMUFileReader
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import RAMFlag
from savevm.ram.load import RAMLoader
from savevm.ram.runs import RunReader
from savevm.ram.state import RAMState


def _plant(site: Site) -> Parts:
    # The static variable's last value, while this load has named no block.
    known: list[RAMBlock] = []

    class RAMLoaderWithStatic(RAMLoader):
        """Keeps the block in a static variable."""

        def __init__(self, f: QEMUFileReader, ram: RAMState) -> None:
            last = ram.incoming.last_block
            super().__init__(f, ram)
            if ram.incoming.last_block is None:
                # Another load begins.
                known[:] = [last] if last is not None else []
                ram.incoming.last_block = last

        def take_runs(self, runs: RunReader) -> None:
            start = self._f.tell()
            super().take_runs(runs)
            if self._f.tell() > start:
                site.canary.check(known)

        def find_block(self, flags: int, address: int, start: int) -> RAMBlock:
            if flags & RAMFlag.CONTINUE:
                site.canary.check(known)
            else:
                known.clear()
            return super().find_block(flags, address, start)

    return Parts(ram=RAMLoaderWithStatic)


def _example() -> bytes:
    return continued_first_page()


RAM_STALE_BLOCK: Final = PlantedBug(
    BugRow(
        name="ram-stale-block",
        bug_class="B39",
        device="ram",
        field="last block",
        trigger="CONTINUE in the first page, after another load named a block",
        oracle="idempotent",
        evidence=r"CONTINUE|not mapped|state/ram",
        mirrors="static RAMBlock *block of the seed's host_from_stream_offset",
    ),
    _plant,
    _example,
)
