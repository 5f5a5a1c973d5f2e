"""B01: the vector under way indexes the table of counts in post_load, and nobody
has looked at it."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.cpu import NO_INTERRUPT, VECTORS, Cpu

_ENTRY: Final = 2
"""Bytes of one count."""


def _plant(site: Site) -> Parts:
    class CpuWithCountAtHand(Cpu):
        """Looks up once what the end of the interrupt will need."""

        def check_interrupt(self) -> Fault | None:
            return None

        def derive(self, version_id: int) -> None:
            super().derive(version_id)
            vector = self.interrupt_injected
            if vector == NO_INTERRUPT:
                return
            site.canary.check(not 0 <= vector < VECTORS)
            counts = site.heap.alloc(VECTORS * _ENTRY, "cpu/vector_counts")
            counts.write(0, b"".join(count.to_bytes(_ENTRY, "big") for count in self.vector_counts))
            try:
                counts.read(vector * _ENTRY, _ENTRY)
            finally:
                counts.free()

    return Parts(devices={"cpu": CpuWithCountAtHand})


def _example() -> bytes:
    return with_value("cpu-ran", "cpu/interrupt_injected", 0x7FFFFFFF)


CPU_VECTOR: Final = PlantedBug(
    BugRow(
        name="cpu-vector-unchecked",
        bug_class="B01",
        device="cpu",
        field="interrupt_injected",
        trigger="a vector above 31, or below 0 and not -1",
        oracle="clean-error",
        evidence=r"^SegmentationFault at cpu_vector\.py:",
        mirrors="CVE-2013-4544 (QEMU 3c99afc779): vmxnet3, interrupt indices unchecked",
    ),
    _plant,
    _example,
)
