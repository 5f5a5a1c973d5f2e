"""What a network card is made of: descriptor rings and bounded queues.

Where the fields come from: e1000's TDH/TDT and RDH/RDT, stellaris_enet's
``np``, ``next_packet`` and ``rx[i].len`` (CVE-2013-4532), virtio's queue size.
"""

from dataclasses import dataclass
from typing import Final

from savevm.devices.base import U64, Fault, first_fault, outside
from savevm.state import State
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription

RING_SIZE: Final = 8
PACKET_MAX: Final = 2048
QUEUE_SIZE: Final = 8

vmstate_descriptor: Final = VMStateDescription(
    "nic/descriptor",
    1,
    1,
    fields=(fields.uint64("address"), fields.uint16("length"), fields.uint8("done")),
)
vmstate_ring: Final = VMStateDescription(
    "nic/ring",
    1,
    1,
    fields=(
        fields.struct_array("descriptors", vmstate_descriptor, RING_SIZE),
        fields.uint32("head"),
        fields.uint32("tail"),
    ),
)
vmstate_queue: Final = VMStateDescription(
    "nic/queue",
    1,
    1,
    fields=(
        fields.uint8("num"),
        fields.uint8("start"),
        fields.array("lengths", fieldtypes.UINT16, QUEUE_SIZE),
    ),
)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: guest address and length in bytes."""

    address: int
    length: int


class Descriptor(State):
    """Where a packet lies and whether the card is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.address = 0
        self.length = 0
        self.done = 0


class Ring(State):
    """Descriptors from ``head`` up to ``tail`` belong to the card."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = [Descriptor() for _ in range(RING_SIZE)]
        self.head = 0
        self.tail = 0

    def reset(self) -> None:
        """Empty.  The descriptors stay: making them costs more than all else
        about building a machine."""
        for descriptor in self.descriptors:
            descriptor.address = descriptor.length = descriptor.done = 0
        self.head = 0
        self.tail = 0

    def level(self) -> int:
        """Descriptors that belong to the card."""
        return (self.tail - self.head) % RING_SIZE

    def post(self, address: int, length: int) -> None:
        """Give a packet to the card; lost when all but one are in use."""
        if self.level() == RING_SIZE - 1:
            return
        descriptor = self.descriptors[self.tail]
        descriptor.address = address & U64
        descriptor.length = min(length, PACKET_MAX)
        descriptor.done = 0
        self.tail = (self.tail + 1) % RING_SIZE

    def take(self) -> Packet | None:
        """The next packet that is not done.  Ends because ``head`` goes round
        and meets ``tail``: one outside the ring is never met (B13)."""
        while self.head != self.tail:
            descriptor = self.descriptors[self.head]
            self.head = (self.head + 1) % RING_SIZE
            if not descriptor.done:
                descriptor.done = 1
                return Packet(descriptor.address, descriptor.length)
        return None


class NetQueue(State):
    """Lengths of packets that wait: ``num`` of them from ``start``."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0
        self.start = 0
        self.lengths = [0] * QUEUE_SIZE

    def push(self, length: int) -> None:
        """Append; a full queue drops."""
        if self.num < QUEUE_SIZE:
            self.lengths[(self.start + self.num) % QUEUE_SIZE] = length
            self.num += 1

    def pop(self) -> None:
        """Drop the oldest."""
        if self.num:
            self.lengths[self.start] = 0
            self.start = (self.start + 1) % QUEUE_SIZE
            self.num -= 1


def ring_fault(name: str, s: Ring) -> Fault | None:
    """Head and tail are indices, lengths fit a packet buffer."""
    return first_fault(
        (
            outside(f"{name}.head", s.head, 0, RING_SIZE - 1),
            outside(f"{name}.tail", s.tail, 0, RING_SIZE - 1),
        )
    ) or first_fault(
        outside(f"{name}.descriptors[{i}].length", d.length, 0, PACKET_MAX)
        for i, d in enumerate(s.descriptors)
    )


def queue_fault(name: str, s: NetQueue) -> Fault | None:
    """``num`` fits, ``start`` is an index."""
    return outside(f"{name}.num", s.num, 0, QUEUE_SIZE) or outside(
        f"{name}.start", s.start, 0, QUEUE_SIZE - 1
    )
