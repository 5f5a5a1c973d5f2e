"""B36: the description behind EOF is skipped byte by byte, as many as its size says."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.constants import QEMU_VM_VMDESCRIPTION
from savevm.errors import LoadError
from savevm.load import Loader
from savevm.recording import Role

_ENDLESS: Final = 1 << 25
"""Bytes that take a second or more to skip one by one."""


def _plant(site: Site) -> Parts:
    class LoaderThatSkipsByteByByte(Loader):
        """Looks at no error on the way."""

        def load_vmdesc(self) -> None:
            f = self.f
            if f.peek_byte() != QEMU_VM_VMDESCRIPTION:
                return
            f.get_byte(Role.SECTION_TYPE)
            try:
                left = f.get_be32(Role.VMDESC_SIZE)
            except LoadError as error:
                raise error.within("vmdesc") from None
            there = len(f.peek_buffer(min(left, 1 << 24)))
            f.skip_bytes(there)
            left -= there
            site.canary.check(left > _ENDLESS)
            while left:
                left -= 1
            if there and not f.get_error():
                return

    return Parts(loader=LoaderThatSkipsByteByByte)


def _example() -> bytes:
    tree = document("none-fresh")
    return tree.with_value(tree.find("vmdesc/vmdesc size"), 0xFFFFFFFF)


VMDESC_SKIP: Final = PlantedBug(
    BugRow(
        name="vmdesc-endless-skip",
        bug_class="B36",
        device="*",
        field="vmdesc size",
        trigger="a size of some ten millions more than there is",
        oracle="no-hang",
        evidence=r"^vmdesc_skip\.py:",
        mirrors="the seed's vmdesc loop, whose errors nobody looks at (QEMU 1aca9a5f7d)",
    ),
    _plant,
    _example,
)
