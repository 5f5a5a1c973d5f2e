"""A byte FIFO that devices embed: QEMU's ``Fifo8``.

Source: QEMU ``util/fifo8.c`` and ``vmstate_fifo8``: the buffer is a VBUFFER whose
size is the capacity, which does not travel; head and num do.  What went wrong
with such FIFOs: a level above the capacity (PXA2xx SSP, CVE-2013-4533), a head
outside the ring (PL022, CVE-2013-4530), and hooks that expected the device
around it (exynos4210_uart, QEMU 617dff091f).
"""

from typing import Final

from savevm.devices.base import Fault, call_post_load, first_fault, outside
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

vmstate_fifo8: Final = VMStateDescription(
    "Fifo8",
    1,
    1,
    fields=(
        fields.vbuffer("data", "capacity", 1),
        fields.uint32("head"),
        fields.uint32("num"),
    ),
    post_load=call_post_load,
)


class Fifo8(State):
    """A ring of bytes.

    Attributes:
        capacity: bytes it holds; part of the host's configuration.
        data: the ring.
        head: index of the oldest byte, below the capacity.
        num: bytes in it, at most the capacity.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.reset()

    def reset(self) -> None:
        """Empty, and nothing left of what was in it."""
        self.data = bytearray(self.capacity)
        self.head = 0
        self.num = 0

    def in_use(self) -> bool:
        """Whether anything differs from an empty FIFO: a subsection that holds
        one is needed exactly then, so that leaving it out loses nothing."""
        return bool(self.num or self.head or any(self.data))

    def push(self, byte: int) -> bool:
        """Append a byte; False when full and the byte is lost."""
        if self.num >= self.capacity:
            return False
        self.data[(self.head + self.num) % self.capacity] = byte & 0xFF
        self.num += 1
        return True

    def pop(self) -> int | None:
        """Take the oldest byte; ``None`` when empty."""
        if not self.num:
            return None
        byte = self.data[self.head]
        self.data[self.head] = 0
        self.head = (self.head + 1) % self.capacity
        self.num -= 1
        return byte

    def check_head(self) -> Fault | None:
        """B01 (CVE-2013-4530): the head indexes the ring."""
        return head_fault(self)

    def check_level(self) -> Fault | None:
        """B06 (CVE-2013-4533): no more bytes than fit."""
        return level_fault(self)

    def post_load(self, version_id: int) -> int | None:
        """Refuse a FIFO that cannot be."""
        del version_id
        fault = first_fault((self.check_head(), self.check_level()))
        if fault is not None:
            raise fault.error()
        return 0


def head_fault(s: Fifo8) -> Fault | None:
    """``head`` is an index into the ring."""
    return outside("head", s.head, 0, s.capacity - 1)


def level_fault(s: Fifo8) -> Fault | None:
    """``num`` fits the ring."""
    return outside("num", s.num, 0, s.capacity)


def fifo_fault(s: Fifo8) -> Fault | None:
    """Both."""
    return first_fault((head_fault(s), level_fault(s)))
