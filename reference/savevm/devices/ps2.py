"""A PS/2 keyboard: a ring with two indices and a count.

Where its fields come from: QEMU ``hw/input/ps2.c``.  The ring has 256 bytes of
which 16 are used, so the relation between ``rptr``, ``wptr`` and ``count`` is
checked, not just each by itself: a count above the capacity made the reader
run for ever (CVE-2017-16845, QEMU 802cbcb730), and a check of the write index
that was off by one refused or corrupted full rings (QEMU b55a06df4f).
"""

from collections.abc import Callable
from typing import Final

from savevm.devices.base import Fault, SimDevice, device_vmsd, first_fault, outside, unlike
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

PS2_BUFFER_SIZE: Final = 256
PS2_QUEUE_SIZE: Final = 16
IRQ_LINE: Final = 1
NO_COMMAND: Final = -1
ACKNOWLEDGE: Final = 0xFA
SET_LEDS: Final = 0xED
SET_SCANCODES: Final = 0xF0
SCAN_ENABLE: Final = 0xF4
SCAN_DISABLE: Final = 0xF5
SCANCODE_SETS: Final = (1, 2, 3)
_SCANCODES: Final = ((0x00, 0x1E, 0x30, 0x2E), (0x00, 0x1C, 0x32, 0x21), (0x00, 0x1C, 0x32, 0x21))
"""Four keys in each scancode set."""

vmstate_queue: Final = VMStateDescription(
    "ps2queue",
    1,
    1,
    fields=(
        fields.buffer("data", PS2_BUFFER_SIZE),
        fields.int32("rptr"),
        fields.int32("wptr"),
        fields.int32("count"),
    ),
)
vmstate_ledstate: Final = VMStateDescription(
    "ps2kbd/ledstate",
    3,
    2,
    fields=(fields.int32("ledstate"),),
    needed=lambda s: bool(s.ledstate),
)
vmstate_need_high_bit: Final = VMStateDescription(
    "ps2kbd/need_high_bit",
    1,
    1,
    fields=(fields.bool_("need_high_bit"),),
    needed=lambda s: bool(s.need_high_bit),
)
vmstate_ps2: Final = device_vmsd(
    "ps2kbd",
    (
        fields.int32("write_cmd"),
        fields.struct("queue", vmstate_queue),
        fields.int32("scan_enabled"),
        fields.int32("translate"),
        fields.int32("scancode_set", 3),
    ),
    version_id=3,
    minimum_version_id=2,
    subsections=(vmstate_ledstate, vmstate_need_high_bit),
)


class PS2Queue(State):
    """The ring: ``count`` bytes from ``rptr`` to before ``wptr``."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Empty, as ``ps2_reset_queue`` leaves it."""
        self.data = bytearray(PS2_BUFFER_SIZE)
        self.rptr = 0
        self.wptr = 0
        self.count = 0

    def put(self, byte: int) -> None:
        """Append a byte; lost when 16 are waiting."""
        if self.count < PS2_QUEUE_SIZE:
            self.data[self.wptr] = byte & 0xFF
            self.wptr = (self.wptr + 1) % PS2_BUFFER_SIZE
            self.count += 1

    def drain(self) -> list[int]:
        """Take everything.  The loop ends because ``wptr`` is where ``count``
        steps from ``rptr`` lead; a ring that breaks that never ends it."""
        taken = []
        while self.count:
            taken.append(self.data[self.rptr])
            self.rptr = (self.rptr + 1) % PS2_BUFFER_SIZE
            self.count = (self.wptr - self.rptr) % PS2_BUFFER_SIZE
        return taken


def count_fault(s: "PS2Keyboard") -> Fault | None:
    """At most 16 bytes wait."""
    return outside("queue.count", s.queue.count, 0, PS2_QUEUE_SIZE)


def pointers_fault(s: "PS2Keyboard") -> Fault | None:
    """Both are indices."""
    return first_fault(
        (
            outside("queue.rptr", s.queue.rptr, 0, PS2_BUFFER_SIZE - 1),
            outside("queue.wptr", s.queue.wptr, 0, PS2_BUFFER_SIZE - 1),
        )
    )


def ring_fault(s: "PS2Keyboard") -> Fault | None:
    """The three agree."""
    queue = s.queue
    return unlike("queue.wptr", queue.wptr, (queue.rptr + queue.count) % PS2_BUFFER_SIZE)


def scancode_set_fault(s: "PS2Keyboard") -> Fault | None:
    """There are three sets."""
    return outside("scancode_set", s.scancode_set, SCANCODE_SETS[0], SCANCODE_SETS[-1])


class PS2Keyboard(SimDevice):
    """State of the keyboard.

    Attributes:
        queue: bytes for the guest.
        write_cmd: command that waits for its argument or -1; unknown commands
            are ignored, so any value is good.
        scan_enabled, translate: truth values, any value is good.
        scancode_set: 1 to 3, an index into the table of scancodes.
        ledstate, need_high_bit: travel when set.
    """

    name = "ps2"
    vmsd = vmstate_ps2
    invariants = (count_fault, pointers_fault, ring_fault, scancode_set_fault)

    def __init__(self) -> None:
        super().__init__()
        self.queue = PS2Queue()

    def reset(self) -> None:
        self.write_cmd = NO_COMMAND
        self.queue.clear()
        self.scan_enabled = 1
        self.translate = 0
        self.scancode_set = 2
        self.ledstate = 0
        self.need_high_bit = False

    def check_count(self) -> Fault | None:
        """B06, B13 (CVE-2017-16845)."""
        return count_fault(self)

    def check_pointers(self) -> Fault | None:
        """B01, B02: indices into ``data``."""
        return pointers_fault(self)

    def check_ring(self) -> Fault | None:
        """B13, B10: the relation; at a full ring as well as at an empty one."""
        return ring_fault(self)

    def check_scancode_set(self) -> Fault | None:
        """B02, B34: an index that the next key uses."""
        return scancode_set_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_count, self.check_pointers, self.check_ring, self.check_scancode_set)

    # -- running -----------------------------------------------------------------------

    def press(self, key: int) -> None:
        """A key goes down (``ps2_put_keycode``)."""
        if self.scan_enabled:
            code = _SCANCODES[self.scancode_set - 1][key & 3]
            self.queue.put(code | (0x80 if self.need_high_bit else 0))
            self.need_high_bit = not self.need_high_bit
            self.raise_irq(IRQ_LINE)

    def write(self, value: int) -> None:
        """The guest writes a command or its argument (``ps2_write_keyboard``)."""
        value &= 0xFF
        if self.write_cmd == SET_LEDS:
            self.ledstate = value & 7
        elif self.write_cmd == SET_SCANCODES:
            self.scancode_set = value if value in SCANCODE_SETS else self.scancode_set
        waits = self.write_cmd == NO_COMMAND and value in (SET_LEDS, SET_SCANCODES)
        self.write_cmd = value if waits else NO_COMMAND
        if value in (SCAN_ENABLE, SCAN_DISABLE):
            self.scan_enabled = int(value == SCAN_ENABLE)
        self.queue.put(ACKNOWLEDGE)

    def step(self) -> None:
        # The guest's interrupt handler empties the ring when it is half full.
        if self.queue.count > PS2_QUEUE_SIZE // 2:
            self.queue.drain()
