"""B38: where pages come in runs, a page may lie behind what is in use of its block."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, page_headers
from savevm.machine import Machine
from savevm.ram.blocks import RAMBlock
from savevm.ram.load import RAMLoader
from savevm.ram.pages import DenseMemory
from savevm.ram.runs import RunReader
from savevm.ram.state import RAMState


def _plant(site: Site) -> Parts:
    class RunReaderToTheEnd(RunReader):
        """Knows the block's greatest length alone."""

        def bound_of(self, block: RAMBlock) -> int:
            return block.memory.pages * block.memory.page_size

    class RAMLoaderOfLongRuns(RAMLoader):
        """Takes runs by it."""

        def run_reader(self, ram: RAMState) -> RunReader:
            return RunReaderToTheEnd(self._f, ram, self._report)

    class RoomyMemory(DenseMemory):
        """Has room for twice as many pages as are in use."""

        def put_pages(self, first: int, count: int, data: memoryview, at: int, stride: int) -> None:
            site.canary.check(2 * (first + count) > self.pages)
            super().put_pages(first, count, data, at, stride)

        def put_zero_pages(self, first: int, count: int) -> None:
            site.canary.check(2 * (first + count) > self.pages)
            super().put_zero_pages(first, count)

    def prepare(machine: Machine) -> None:
        assert machine.ram is not None
        for block in machine.ram.blocks:
            block.memory = RoomyMemory(machine.page_size, 2 * block.used_pages)

    return Parts(ram=RAMLoaderOfLongRuns, prepare=prepare)


def _example() -> bytes:
    tree = document("ram-ran")
    return tree.with_value(page_headers(tree)[1], 0x10028)


RAM_RUN_BOUND: Final = PlantedBug(
    BugRow(
        name="ram-run-past-used",
        bug_class="B38",
        device="ram",
        field="address of a page",
        trigger="a page of a run behind used_length and before max_length",
        oracle="differential",
        evidence=r"^ram",
        mirrors="QEMU 0be839a270 checks against max_length; used_length is what counts",
    ),
    _plant,
    _example,
)
