"""B13: post_load counts what waits in the ring by walking from one index to the
other, which it never meets when it lies outside."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.devices.ps2 import PS2_BUFFER_SIZE, PS2Keyboard


class PS2WithRingWalk(PS2Keyboard):
    """Recounts before it checks."""

    def post_load(self, version_id: int) -> int | None:
        queue = self.queue
        at, waiting = queue.rptr, 0
        while at != queue.wptr:
            at = (at + 1) % PS2_BUFFER_SIZE
            waiting += 1
        queue.count = waiting
        return super().post_load(version_id)


PS2_RING_WALK: Final = PlantedBug(
    name="ps2-ring-walk",
    bug_class="B13",
    device="ps2kbd",
    field="queue.wptr",
    trigger="a write index outside 0..255",
    oracle="no-hang",
    mirrors="CVE-2017-16845 (QEMU 802cbcb730): PS/2, queue indices unchecked",
    devices={"ps2": PS2WithRingWalk},
)
