"""A 16550A serial port with its two FIFOs, the far end looped back.

Where its fields come from: QEMU ``hw/char/serial.c`` (registers, optional
subsections, ``thr_ipending`` with -1 for unknown) and ``hw/char/cadence_uart.c``
(a clock divider that must not be zero after a load, QEMU 450aaae863).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from savevm.devices.base import (
    U8,
    Fault,
    SimDevice,
    device_vmsd,
    first_fault,
    outside,
    unlike,
)
from savevm.devices.fifo import Fifo8, fifo_fault, vmstate_fifo8
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

FIFO_LENGTH: Final = 16
IRQ_LINE: Final = 4
THR_UNKNOWN: Final = -1
LSR_DATA_READY: Final = 0x01
LSR_OVERRUN: Final = 0x02
LSR_THR_EMPTY: Final = 0x60
IER_RECEIVE: Final = 0x01
IIR_THR_EMPTY: Final = 0x02
_IIR_ID: Final = 0x06
BRGR_MAX: Final = 0xFFFF
BDIV_MIN: Final = 4
"""Lower values are reserved by the cadence UART's manual."""
_CLOCK_HZ: Final = 50_000_000
_TIMEOUT_NS: Final = 40_000

vmstate_thr_ipending: Final = VMStateDescription(
    "serial/thr_ipending",
    1,
    1,
    fields=(fields.int32("thr_ipending"),),
    needed=lambda s: bool(s.thr_ipending_needed()),
)
vmstate_recv_fifo: Final = VMStateDescription(
    "serial/recv_fifo",
    1,
    1,
    fields=(fields.struct("recv_fifo", vmstate_fifo8, 1),),
    needed=lambda s: bool(s.recv_fifo.in_use()),
)
vmstate_xmit_fifo: Final = VMStateDescription(
    "serial/xmit_fifo",
    1,
    1,
    fields=(fields.struct("xmit_fifo", vmstate_fifo8, 1),),
    needed=lambda s: bool(s.xmit_fifo.in_use()),
)
vmstate_timeout: Final = VMStateDescription(
    "serial/fifo_timeout_timer",
    1,
    1,
    fields=(timer_field("fifo_timeout_timer"),),
    needed=lambda s: bool(s.fifo_timeout_timer.pending()),
)
vmstate_serial: Final = device_vmsd(
    "serial",
    (
        fields.uint16("divider", 2),
        fields.uint8("rbr"),
        fields.uint8("ier"),
        fields.uint8("iir"),
        fields.uint8("lcr"),
        fields.uint8("mcr"),
        fields.uint8("lsr"),
        fields.uint8("msr"),
        fields.uint8("scr"),
        fields.uint8("fcr", 3),
        fields.uint32("brgr", 3),
        fields.uint8("bdiv", 3),
        fields.int8("last_break_enable", 3),
        fields.unused(3, 3),
    ),
    version_id=3,
    minimum_version_id=2,
    subsections=(vmstate_thr_ipending, vmstate_recv_fifo, vmstate_xmit_fifo, vmstate_timeout),
)


def brgr_fault(s: "Serial") -> Fault | None:
    """The baud rate generator divides."""
    return outside("brgr", s.brgr, 1, BRGR_MAX)


def bdiv_fault(s: "Serial") -> Fault | None:
    """So does the baud rate divider."""
    return outside("bdiv", s.bdiv, BDIV_MIN, 0xFF)


def char_time_fault(s: "Serial") -> Fault | None:
    """``char_ns`` follows from the dividers."""
    if brgr_fault(s) or bdiv_fault(s):
        return None
    return unlike("char_ns", s.char_ns, char_ns_of(s.brgr, s.bdiv))


def thr_fault(s: "Serial") -> Fault | None:
    """-1, 0 or 1."""
    return outside("thr_ipending", s.thr_ipending, THR_UNKNOWN, 1)


def char_ns_of(brgr: int, bdiv: int) -> int:
    """Nanoseconds that ten bits take."""
    baud = _CLOCK_HZ // (brgr * (bdiv + 1))
    return 10_000_000_000 // max(baud, 1)


class Serial(SimDevice):
    """State of the port.

    Attributes:
        divider: the guest's, 0 included: no baud rate is a legal state, and a
            load that refused it would pin the guest (B46).
        brgr, bdiv: masked to their legal range where the guest writes them, so
            a stream that brings another is wrong (B14).
        char_ns: derived from both, never on the wire (B17).
        rbr … fcr: registers, the guest's.
        thr_ipending: -1 means that the stream did not say: the load works it
            out (B15).
        recv_fifo, xmit_fifo: travel when they are in use.
        fifo_timeout_timer: fires when received bytes are not fetched.
    """

    name = "serial"
    vmsd = vmstate_serial
    invariants = (
        brgr_fault,
        bdiv_fault,
        char_time_fault,
        thr_fault,
        lambda s: fifo_fault(s.recv_fifo),
        lambda s: fifo_fault(s.xmit_fifo),
    )
    fifo_timeout_timer: QEMUTimer

    def __init__(self) -> None:
        super().__init__()
        self.recv_fifo = Fifo8(FIFO_LENGTH)
        self.xmit_fifo = Fifo8(FIFO_LENGTH)

    def create(self, machine: "Machine") -> None:
        self.fifo_timeout_timer = machine.timers.new_ns(self.fifo_timeout)

    def reset(self) -> None:
        self.divider = 0x0C
        self.rbr = self.ier = self.lcr = self.scr = self.fcr = 0
        self.iir = 0x01
        self.mcr = 0x08
        self.lsr = LSR_THR_EMPTY
        self.msr = 0xB0
        self.brgr = 0x28B
        self.bdiv = 0x0F
        self.last_break_enable = 0
        self.thr_ipending = 0
        self.recv_fifo.reset()
        self.xmit_fifo.reset()
        self.fifo_timeout_timer.delete()
        self.update_char_time()

    def update_char_time(self) -> None:
        """Recompute ``char_ns``; divides by both dividers."""
        self.char_ns = char_ns_of(self.brgr, self.bdiv)

    def thr_ipending_needed(self) -> bool:
        """``serial_thr_ipending_needed``: only where the other registers do
        not say it already."""
        return self.thr_ipending != self.thr_ipending_expected()

    def thr_ipending_expected(self) -> int:
        """What the registers say about a pending transmitter interrupt."""
        return int(self.iir & _IIR_ID == IIR_THR_EMPTY)

    # -- what a load checks ------------------------------------------------------------

    def check_brgr(self) -> Fault | None:
        """B14: divided by at once, and by every character."""
        return brgr_fault(self)

    def check_bdiv(self) -> Fault | None:
        """B14: reserved values make nonsense of the rate."""
        return bdiv_fault(self)

    def check_thr_ipending(self) -> Fault | None:
        """B15: a truth value or the sentinel."""
        return thr_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_brgr, self.check_bdiv, self.check_thr_ipending, self.check_fifos)

    def check_fifos(self) -> Fault | None:
        """Both FIFOs checked themselves when they were loaded; a load that
        goes on after an objection must find them out again."""
        return first_fault(
            (
                self.recv_fifo.check_head(),
                self.recv_fifo.check_level(),
                self.xmit_fifo.check_head(),
                self.xmit_fifo.check_level(),
            )
        )

    def pre_load(self) -> int | None:
        self.reset()
        self.thr_ipending = THR_UNKNOWN
        return 0

    def derive(self, version_id: int) -> None:
        if self.thr_ipending == THR_UNKNOWN:
            self.thr_ipending = self.thr_ipending_expected()
        self.update_char_time()

    # -- running -----------------------------------------------------------------------

    def write_thr(self, byte: int) -> None:
        """The guest sends a byte."""
        self.thr_ipending = 0
        if self.xmit_fifo.push(byte):
            self.lsr &= ~LSR_THR_EMPTY & 0xFF

    def read_rbr(self) -> int:
        """The guest fetches a byte; 0 when there is none."""
        byte = self.recv_fifo.pop()
        if byte is None:
            self.lsr &= ~(LSR_DATA_READY | LSR_OVERRUN) & 0xFF
            return 0
        self.rbr = byte
        return byte

    def read_iir(self) -> int:
        """The guest asks what happened; that settles the transmitter, while
        the register keeps its value until something else happens."""
        if self.iir & _IIR_ID == IIR_THR_EMPTY:
            self.thr_ipending = 0
        return self.iir

    def write_control(self, value: int) -> None:
        """The guest writes the registers that hold whatever it likes."""
        self.lcr, self.mcr, self.scr = value & U8, value >> 8 & 0x1F, value >> 16 & U8
        self.fcr = value >> 4 & 0xC9
        self.msr = self.mcr << 4 & 0xF0
        self.last_break_enable = -(value & 1)

    def write_clock(self, brgr: int, bdiv: int) -> None:
        """The guest sets the baud rate: masked to what the hardware takes."""
        self.brgr = (brgr & BRGR_MAX) or 1
        self.bdiv = max(bdiv & 0xFF, BDIV_MIN)
        self.update_char_time()

    def fifo_timeout(self) -> None:
        """Received bytes have been waiting for four characters."""
        if self.recv_fifo.num:
            self.raise_irq(IRQ_LINE)

    def step(self) -> None:
        byte = self.xmit_fifo.pop()
        if byte is None:
            if not self.lsr & LSR_THR_EMPTY:
                self.lsr |= LSR_THR_EMPTY
                self.iir = IIR_THR_EMPTY
                self.thr_ipending = 1
            return
        self.iir = 0x01
        if not self.recv_fifo.push(byte):
            self.lsr |= LSR_OVERRUN
        self.lsr |= LSR_DATA_READY
        self.raise_irq(IRQ_LINE, self.ier & IER_RECEIVE)
        if not self.fifo_timeout_timer.pending():
            self.arm(self.fifo_timeout_timer, _TIMEOUT_NS + 4 * self.char_ns)
