"""B01: the vector under way indexes the table of counts in post_load, and nobody
has looked at it."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.devices.base import Fault
from savevm.devices.cpu import NO_INTERRUPT, Cpu


class CpuWithCountAtHand(Cpu):
    """Looks up once what the end of the interrupt will need.

    Attributes:
        count_at_hand: how often the vector under way was taken before.
    """

    count_at_hand = 0

    def check_interrupt(self) -> Fault | None:
        return None

    def derive(self, version_id: int) -> None:
        super().derive(version_id)
        if self.interrupt_injected != NO_INTERRUPT:
            self.count_at_hand = self.vector_counts[self.interrupt_injected]


CPU_VECTOR: Final = PlantedBug(
    name="cpu-vector-unchecked",
    bug_class="B01",
    device="cpu",
    field="interrupt_injected",
    trigger="a vector above 31, or below -32",
    oracle="clean-error",
    mirrors="CVE-2013-4544 (QEMU 3c99afc779): vmxnet3, interrupt indices unchecked",
    devices={"cpu": CpuWithCountAtHand},
)
