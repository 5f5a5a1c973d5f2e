"""B37: the loop over the block list does not look at the stream's end, where blocks have
no name and no length."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.errors import LoadError
from savevm.ram.load import RAMLoader


def _plant(site: Site) -> Parts:
    class RAMLoaderWithEndlessList(RAMLoader):
        """Takes zeros for an empty block, which does no harm."""

        def load_entry(self, total: int) -> int:
            f = self.context.f
            site.canary.reached()
            if not f.peek_buffer(1):
                # qemu_get_byte at the end of a file.
                site.canary.triggered()
                return 0
            return super().load_entry(total)

        def load_block_list(self, total: int, start: int) -> None:
            try:
                super().load_block_list(total, start)
            except LoadError as error:
                if "a block list of more than" not in error.reason:
                    raise
                while total:
                    total -= self.load_entry(total)

    return Parts(ram=RAMLoaderWithEndlessList)


def _example() -> bytes:
    tree = document("ram-ran")
    return tree.to_bytes()[: tree.find("ram/START/mem size/pc.ram/ram block name").start]


RAM_LIST_LOOP: Final = PlantedBug(
    BugRow(
        name="ram-list-endless",
        bug_class="B37",
        device="ram",
        field="block list",
        trigger="a stream that ends inside the list of blocks",
        oracle="no-hang",
        evidence=r"^(ram_list_loop|load_list)\.py:",
        mirrors="the seed's MEM_SIZE loop has no test of the stream's error (QEMU 12ab1e4fe8)",
    ),
    _plant,
    _example,
)
