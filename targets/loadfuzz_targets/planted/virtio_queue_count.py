"""B03: as many queues are loaded as the stream says, past the array that holds four."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import virtio_with
from savevm.devices.base import Fault
from savevm.devices.virtio import QUEUE_MAX, Virtio
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader

_QUEUE_BYTES: Final = 14
"""Of one queue: ring size, address, index."""
_LOADED_MAX: Final = 1 << 12
"""Queues that are written at the most: the modelled heap ends there, where in C the
page behind it would end the process."""


def _plant(site: Site) -> Parts:
    class VirtioWithAnyNumberOfQueues(Virtio):
        """Writes vq[i] for every i."""

        def check_queue_count(self, count: int) -> Fault | None:
            return None

        def load_queues(self, f: QEMUFileReader) -> None:
            head = f.peek_buffer(4)
            count = int.from_bytes(head, "big") if len(head) == 4 else 0
            site.canary.check(count > QUEUE_MAX)
            if count <= QUEUE_MAX:
                super().load_queues(f)
                return
            at = f.tell()
            f.get_be32("num")
            table = site.heap.alloc(QUEUE_MAX * _QUEUE_BYTES, "virtio/vq")
            try:
                for index in range(min(count, _LOADED_MAX)):
                    table.write(index * _QUEUE_BYTES, f.get_buffer(_QUEUE_BYTES, "queue"))
            finally:
                table.free()
            raise LoadError(f"{count} queues", offset=at, path=("num",), actual=count)

    return Parts(devices={"virtio": VirtioWithAnyNumberOfQueues})


def _example() -> bytes:
    return virtio_with(20, 4, 5)


VIRTIO_QUEUE_COUNT: Final = PlantedBug(
    BugRow(
        name="virtio-queue-count",
        bug_class="B03",
        device="virtio-console",
        field="num",
        trigger="more than 4 queues",
        oracle="no-leak",
        evidence=r"^redzone/virtio/vq",
        mirrors="CVE-2013-4151 (QEMU cc45995294): virtio, num unchecked",
    ),
    _plant,
    _example,
)
