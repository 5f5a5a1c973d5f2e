"""B30: a peek asks its source once and takes what it got for all there is.

A subsection whose name arrives in two pieces is then not seen, and its bytes
are read as whatever comes next.
"""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.qemufile import QEMUFileReader


def _plant(site: Site) -> Parts:
    class ReaderThatPeeksOnce(QEMUFileReader):
        """Fills its buffer at most once for a peek."""

        def peek_buffer(self, size: int, offset: int = 0) -> bytes:
            start = self._pos + offset
            if start + size > self._end:
                # One byte more than there is: exactly one read of the source.
                self._fill(self._end - self._pos + 1)
                start = self._pos + offset
            found = self._end - start
            site.canary.check(found < size and self._source is not None)
            return bytes(self._buf[start : min(start + size, self._end)])

    return Parts(reader=ReaderThatPeeksOnce)


def _example() -> bytes:
    return document("optional-parts-0").to_bytes()


PEEK_ONCE: Final = PlantedBug(
    BugRow(
        name="peek-fills-once",
        bug_class="B30",
        device="*",
        field="subsection name",
        trigger="a stream with a subsection whose name arrives in two pieces",
        oracle="chunking",
        evidence=r".",
        mirrors="QEMU 548f52ea06: qemu_peek_buffer tried to fill the buffer only once",
    ),
    _plant,
    _example,
)
