"""B27: a byte of data that looks like the mark of a subsection must be one."""

from errno import ENOENT
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader

_HEADER: Final = 2
"""Bytes before a subsection's name: the engine peeks behind them."""


def _plant(site: Site) -> Parts:
    class ReaderThatInsistsOnSubsections(QEMUFileReader):
        """Fails the look-up instead of leaving the bytes alone."""

        def peek_buffer(self, size: int, offset: int = 0) -> bytes:
            name = super().peek_buffer(size, offset)
            if offset == _HEADER and len(name) == size:
                wrong = not (name.isascii() and name.decode().isprintable() and b"/" in name)
                site.canary.check(wrong)
                if wrong:
                    raise LoadError(
                        f"unknown subsection {name[:16]!r}", errno=ENOENT, offset=self.tell()
                    )
            return name

    return Parts(reader=ReaderThatInsistsOnSubsections)


def _example() -> bytes:
    tree = document("nic-ran")
    leaf = tree.find("0000:00:03.0/nic/tx/descriptors[1]/address")
    return tree.with_value(leaf, 0x0510_0000_0000_0000)


SUBSECTION_LOOKALIKE: Final = PlantedBug(
    BugRow(
        name="subsection-lookalike",
        bug_class="B27",
        device="*",
        field="what follows an embedded struct",
        trigger="data that begins with 0x05 and a length behind a struct",
        oracle="no-false-reject",
        evidence=r".",
        mirrors="QEMU eb60260de0 and 3da9eebda9: a 0x05 in the parent's data",
    ),
    _plant,
    _example,
)
