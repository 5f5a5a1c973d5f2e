"""B13: post_load counts what waits in the ring by walking from one index to the
other, which it never meets when it lies outside."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.ps2 import PS2_BUFFER_SIZE, PS2Keyboard


def _plant(site: Site) -> Parts:
    class PS2WithRingWalk(PS2Keyboard):
        """Recounts before it checks."""

        def post_load(self, version_id: int) -> int | None:
            queue = self.queue
            site.canary.check(not 0 <= queue.wptr < PS2_BUFFER_SIZE)
            at, waiting = queue.rptr, 0
            while at != queue.wptr:
                at = (at + 1) % PS2_BUFFER_SIZE
                waiting += 1
            queue.count = waiting
            return super().post_load(version_id)

    return Parts(devices={"ps2": PS2WithRingWalk})


def _example() -> bytes:
    return with_value("serial-ran", "ps2kbd/queue/wptr", 256)


PS2_RING_WALK: Final = PlantedBug(
    BugRow(
        name="ps2-ring-walk",
        bug_class="B13",
        device="ps2kbd",
        field="queue.wptr",
        trigger="a write index outside 0..255",
        oracle="no-hang",
        evidence=r"^ps2_ring_walk\.py:",
        mirrors="CVE-2017-16845 (QEMU 802cbcb730): PS/2, queue indices unchecked",
    ),
    _plant,
    _example,
)
