"""One request of the disk: where on the disk, where in memory, how far along.

Where the fields come from: virtio-blk's and virtio-scsi's saved
``VirtQueueElement`` with its counts of segments (CVE-2013-4535, -4536, -4542)
and the host pointers that once travelled inside it (QEMU 1cc933453b).
"""

from typing import Final

from savevm.devices.base import U32, U64, Fault, first_fault, outside
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

SEGMENTS_MAX: Final = 4
SECTOR: Final = 512
REQUEST_SECTORS_MAX: Final = 8
DIRECTIONS: Final = 2
"""0 reads from the disk, 1 writes to it."""

vmstate_segment: Final = VMStateDescription(
    "disk/segment",
    1,
    1,
    fields=(fields.uint64("address"), fields.uint32("length")),
)
vmstate_request: Final = VMStateDescription(
    "disk/request",
    2,
    1,
    fields=(
        fields.uint32("tag"),
        fields.uint64("sector"),
        fields.uint16("sectors"),
        fields.uint8("direction"),
        fields.uint8("retries", 2),
        # Allocated on load: the count is all that says how many there are, so
        # it is checked before anything is made.
        fields.uint8("segment_count"),
        fields.validate("segments fit", lambda s, _v: s.check_segments() is None),
        fields.struct_varray(
            "segments", vmstate_segment, "segment_count", "uint8", new=lambda: Segment()
        ),
    ),
)
vmstate_completion: Final = VMStateDescription(
    "disk/completion",
    1,
    1,
    fields=(fields.uint32("tag"), fields.int32("result")),
)
vmstate_slot: Final = VMStateDescription(
    "disk/slot",
    1,
    1,
    fields=(fields.uint64("sector"), fields.int64("started_ns")),
)


class Segment(State):
    """A piece of guest memory: address and length are the guest's."""

    def __init__(self, address: int = 0, length: int = 0) -> None:
        super().__init__()
        self.address = address & U64
        self.length = length & U32


class Request(State):
    """A request in the queue.

    Attributes:
        tag: its number.
        sector, sectors: where on the disk; the disk's capacity bounds them.
        direction: 0 or 1, an index.
        retries: since version 2.
        segment_count, segments: pieces of memory, at most four.
        host_offset: where in RAM the first piece lies: derived from the guest
            address and never on the wire (B43).
    """

    def __init__(self) -> None:
        super().__init__()
        self.tag = 0
        self.sector = 0
        self.sectors = 0
        self.direction = 0
        self.retries = 0
        self.segment_count = 0
        self.segments: list[Segment] = []
        self.host_offset = 0

    def check_segments(self) -> Fault | None:
        """B03, B07 (CVE-2013-4535): before the segments are made."""
        return segments_fault(self)

    def size(self) -> int:
        """Bytes on the disk."""
        return self.sectors * SECTOR


class Completion(State):
    """A finished request that the guest has not seen: tag and result."""

    def __init__(self, tag: int = 0, result: int = 0) -> None:
        super().__init__()
        self.tag = tag
        self.result = result


class Slot(State):
    """What the disk remembers of a request under way."""

    def __init__(self, sector: int = 0, started_ns: int = 0) -> None:
        super().__init__()
        self.sector = sector
        self.started_ns = started_ns


def segments_fault(s: Request) -> Fault | None:
    """At most :data:`SEGMENTS_MAX`."""
    return outside("segment_count", s.segment_count, 0, SEGMENTS_MAX)


def request_fault(name: str, s: Request, capacity: int) -> Fault | None:
    """The request lies on the disk and every count fits."""
    return first_fault(
        (
            outside(f"{name}.segment_count", s.segment_count, 0, SEGMENTS_MAX),
            outside(f"{name}.direction", s.direction, 0, DIRECTIONS - 1),
            outside(f"{name}.sectors", s.sectors, 1, REQUEST_SECTORS_MAX),
            # B08: compared so that no sum can wrap.
            outside(f"{name}.sector", s.sector, 0, capacity - max(s.sectors, 1)),
        )
    )
