"""An SD card behind an SPI bus: a small state machine with a buffer per mode.

Where its fields come from: QEMU ``hw/sd/ssi-sd.c``, whose indices have bounds
that depend on the mode (CVE-2013-4537), and ``hw/display/ssd0323.c``, whose
window is a pair of ranges (CVE-2013-4538).  The first byte of a command comes
when the mode is CMD; arguments fill ``cmdarg``; ``response`` is read out byte
by byte.
"""

from collections.abc import Callable
from typing import Final

from savevm.devices.base import U8, Fault, SimDevice, device_vmsd, first_fault, outside
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

CMD: Final = 0
CMDARG: Final = 1
RESPONSE: Final = 2
DATA_READ: Final = 3
MODE_MAX: Final = DATA_READ
ARGUMENT_BYTES: Final = 4
RESPONSE_BYTES: Final = 5
ROWS: Final = 80
COLUMNS: Final = 64
BLOCK_BYTES: Final = 16
STOP_TRANSMISSION: Final = 12
SENT_MARK: Final = 0xFE

vmstate_block: Final = VMStateDescription(
    "ssi-sd/block",
    1,
    1,
    fields=(
        # The first byte of the buffer is a mark that never travels.
        fields.buffer("block", BLOCK_BYTES, start=1),
    ),
    needed=lambda s: bool(s.block_needed()),
)
vmstate_sdcard: Final = device_vmsd(
    "ssi-sd",
    (
        fields.uint32("mode"),
        fields.int32("cmd"),
        fields.buffer("cmdarg", ARGUMENT_BYTES),
        fields.buffer("response", RESPONSE_BYTES),
        fields.int32("arglen"),
        fields.int32("response_pos"),
        fields.int32("stopping"),
        fields.int32("row"),
        fields.int32("row_start"),
        fields.int32("row_end"),
        fields.int16("column"),
        fields.int16("column_start"),
        fields.int16("column_end"),
    ),
    version_id=3,
    minimum_version_id=3,
    subsections=(vmstate_block,),
)


def mode_fault(s: "SdCard") -> Fault | None:
    """One of four modes."""
    return outside("mode", s.mode, CMD, MODE_MAX)


def position_fault(s: "SdCard") -> Fault | None:
    """The bounds of ``ssi_sd_post_load``: they depend on the mode."""
    if s.mode == CMDARG:
        return outside("arglen", s.arglen, 0, ARGUMENT_BYTES - 1)
    if s.mode == RESPONSE:
        return outside("response_pos", s.response_pos, 0, RESPONSE_BYTES - 1) or outside(
            "arglen", s.arglen, 0, RESPONSE_BYTES
        )
    return None


def window_fault(s: "SdCard") -> Fault | None:
    """Rows and columns lie on the card, start before end."""
    return first_fault(
        (
            outside("row_end", s.row_end, 0, ROWS - 1),
            outside("row_start", s.row_start, 0, s.row_end),
            outside("row", s.row, 0, ROWS - 1),
            outside("column_end", s.column_end, 0, COLUMNS - 1),
            outside("column_start", s.column_start, 0, s.column_end),
            outside("column", s.column, 0, COLUMNS - 1),
        )
    )


class SdCard(SimDevice):
    """State of the card.

    Attributes:
        mode: CMD, CMDARG, RESPONSE or DATA_READ (B34).
        cmd: last command, the guest's.
        cmdarg, arglen: arguments, ``arglen`` of them there (B12).
        response, response_pos: answer of ``arglen`` bytes (B12).
        stopping: truth value, any value is good.
        row…, column…: a window and the place in it (B11).
        block: one data block behind a mark byte; its subsection carries all
            but the mark (the seed's ``start``).
    """

    name = "sdcard"
    vmsd = vmstate_sdcard
    invariants = (mode_fault, position_fault, window_fault)

    def reset(self) -> None:
        self.mode = CMD
        self.cmd = 0
        self.cmdarg = bytearray(ARGUMENT_BYTES)
        self.response = bytearray(RESPONSE_BYTES)
        self.arglen = 0
        self.response_pos = 0
        self.stopping = 0
        self.row = self.row_start = 0
        self.row_end = ROWS - 1
        self.column = self.column_start = 0
        self.column_end = COLUMNS - 1
        self.block = bytearray(1 + BLOCK_BYTES)
        self.block[0] = SENT_MARK

    def block_needed(self) -> bool:
        """Whether there is data."""
        return any(self.block[1:])

    # -- what a load checks ------------------------------------------------------------

    def check_mode(self) -> Fault | None:
        """B34: an unknown mode is no state at all."""
        return mode_fault(self)

    def check_position(self) -> Fault | None:
        """B12 (CVE-2013-4537)."""
        return position_fault(self)

    def check_window(self) -> Fault | None:
        """B11 (CVE-2013-4538)."""
        return window_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_mode, self.check_position, self.check_window)

    # -- running -----------------------------------------------------------------------

    def transfer(self, value: int) -> int:
        """One byte each way over the bus (``ssi_sd_transfer``)."""
        value &= U8
        if self.mode == CMD:
            self.cmd, self.arglen, self.mode = value & 0x3F, 0, CMDARG
            return U8
        if self.mode == CMDARG:
            self.cmdarg[self.arglen] = value
            self.arglen += 1
            if self.arglen == ARGUMENT_BYTES:
                self.answer()
            return U8
        if self.mode == RESPONSE:
            byte = self.response[self.response_pos]
            self.response_pos += 1
            if self.response_pos >= max(self.arglen, 1) or self.response_pos == RESPONSE_BYTES:
                self.mode, self.response_pos = (DATA_READ if self.cmd & 1 else CMD), 0
            return byte
        return self.read_data()

    def answer(self) -> None:
        """A command is complete: make its response."""
        self.response = bytearray((self.cmd & U8, *self.cmdarg))
        self.arglen = 1 + self.cmd % RESPONSE_BYTES
        self.response_pos = 0
        self.stopping = int(self.cmd == STOP_TRANSMISSION)
        self.mode = RESPONSE
        if self.cmd & 3 == 2:
            first, last = sorted((self.cmdarg[0] % ROWS, self.cmdarg[1] % ROWS))
            self.row_start, self.row_end, self.row = first, last, first
        elif self.cmd & 3 == 3:
            first, last = sorted((self.cmdarg[2] % COLUMNS, self.cmdarg[3] % COLUMNS))
            self.column_start, self.column_end, self.column = first, last, first

    def read_data(self) -> int:
        """A byte of data; the place in the window moves on."""
        at = 1 + self.column % BLOCK_BYTES
        self.block[at] = (self.row * COLUMNS + self.column) & U8
        self.column += 1
        if self.column > self.column_end:
            self.column = self.column_start
            self.row = self.row_start if self.row >= self.row_end else self.row + 1
            self.mode = CMD
        return self.block[at]

    def step(self) -> None:
        # What has begun is clocked on; commands come from the guest.
        if self.mode in (RESPONSE, DATA_READ):
            self.transfer(U8)
