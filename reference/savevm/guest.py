"""The guest: a small program that never ends, always does the same, and uses
every device there is.

The program is in ROM: a load can change everything about the guest but what
it does next time round, so that a machine whose memory came from a stream
runs on instead of running wild.  All chance comes from a linear congruential
generator in the CPU's state; there is no clock and no other randomness, so two
machines in the same state stay in the same state.  Device by device an
operation does nothing where the device is missing.
"""

from collections.abc import Callable
from enum import IntEnum, auto
from typing import TYPE_CHECKING, Final, TypeVar

from savevm.devices.base import U32, U64, SimDevice
from savevm.devices.disk import Disk
from savevm.devices.hpet import Hpet
from savevm.devices.intc import Intc
from savevm.devices.kinds import Kinds
from savevm.devices.memdev import MemoryDevice
from savevm.devices.nic import Nic
from savevm.devices.ps2 import PS2Keyboard
from savevm.devices.rtc import REG_A, REG_B, REG_B_PIE, REG_C, Rtc
from savevm.devices.sdcard import SdCard
from savevm.devices.serial import IER_RECEIVE, Serial
from savevm.devices.virtio import Virtio

if TYPE_CHECKING:
    from savevm.devices.cpu import Cpu

LCG_MULTIPLIER: Final = 6364136223846793005
LCG_INCREMENT: Final = 1442695040888963407
PAGE_FILL_BYTES: Final = 256
DEADLINE_NS: Final = 70_000

_KEYBOARD_BYTES: Final = (0xED, 1, 0xF0, 2, 0xF4, 3, 0xF5, 0xF4)

Peer = TypeVar("Peer", bound=SimDevice)


class Op(IntEnum):
    """What one instruction does.  Each begins with a fresh random number."""

    STORE = auto()
    FILL = auto()
    LOAD = auto()
    FP = auto()
    CPREG = auto()
    DEADLINE = auto()
    FLAGS = auto()
    FAULT = auto()
    HALT = auto()
    SEND = auto()
    NET_CONTROL = auto()
    PRINT = auto()
    RECEIVE = auto()
    CLOCK = auto()
    TYPE = auto()
    DISK = auto()
    CARD = auto()
    INTERRUPTS = auto()
    ALARM = auto()
    CONSOLE = auto()
    PLUG = auto()
    JOURNAL = auto()


PROGRAM: Final = (
    Op.STORE, Op.SEND, Op.PRINT, Op.DISK, Op.JOURNAL, Op.CARD, Op.TYPE, Op.FP,
    Op.NET_CONTROL, Op.STORE, Op.CLOCK, Op.CARD, Op.INTERRUPTS, Op.PLUG, Op.CONSOLE, Op.JOURNAL,
    Op.SEND, Op.DISK, Op.ALARM, Op.CARD, Op.JOURNAL, Op.FILL, Op.PRINT, Op.INTERRUPTS,
    Op.RECEIVE, Op.TYPE, Op.CARD, Op.FLAGS, Op.CPREG, Op.JOURNAL, Op.LOAD, Op.FAULT,
    Op.DISK, Op.CARD, Op.INTERRUPTS, Op.DEADLINE, Op.JOURNAL, Op.NET_CONTROL, Op.RECEIVE,
    Op.CARD, Op.TYPE, Op.STORE, Op.CONSOLE, Op.INTERRUPTS, Op.HALT,
)  # fmt: skip
"""One round.  CARD comes often, since the card takes one byte at a time."""


def execute(cpu: "Cpu") -> None:
    """Run one instruction.  The program counter is the guest's: it may hold
    anything, so it is taken modulo the program's length."""
    operation = PROGRAM[cpu.pc % len(PROGRAM)]
    cpu.pc = cpu.pc + 1 & U64
    cpu.lcg = cpu.lcg * LCG_MULTIPLIER + LCG_INCREMENT & U64
    # The low bits of such a generator have short periods.
    value = cpu.lcg >> 33
    cpu.regs[operation % 13] = value
    _OPERATIONS[operation](cpu, value)


def peer(cpu: "Cpu", kind: type[Peer]) -> Peer | None:
    """The machine's device of that kind, or ``None``."""
    device = cpu.machine.devices.get(kind.name)
    return device if isinstance(device, kind) else None


def acknowledge_interrupt(cpu: "Cpu") -> int:
    """Ask the interrupt controller for a vector; 31 (spurious) without one."""
    controller = peer(cpu, Intc)
    return controller.acknowledge() if controller is not None else 31


def end_of_interrupt(cpu: "Cpu") -> None:
    """The interrupt handler: fetch what devices have, then say so."""
    keyboard = peer(cpu, PS2Keyboard)
    if keyboard is not None and cpu.vector_counts[1] & 1:
        cpu.regs[13] = sum(keyboard.queue.drain()) & U64
    controller = peer(cpu, Intc)
    if controller is not None:
        controller.end_of_interrupt()


# -- the CPU and its memory --------------------------------------------------------------


def _store(cpu: "Cpu", value: int) -> None:
    cpu.dma_write(value, cpu.lcg.to_bytes(8, "big"))


def _fill(cpu: "Cpu", value: int) -> None:
    # Runs of equal bytes and of zeros: what XBZRLE and zero pages live on.
    cpu.dma_write(value & ~0xFF, bytes((value & 7,)) * PAGE_FILL_BYTES)


def _load(cpu: "Cpu", value: int) -> None:
    cpu.regs[0] = int.from_bytes(cpu.dma_read(value, 8), "big")


def _fp(cpu: "Cpu", value: int) -> None:
    cpu.fpu.push(value << 20 & U64)
    cpu.fpu.fpuc = value & 0xFFFF


def _cpreg(cpu: "Cpu", value: int) -> None:
    cpu.cpreg_values[value % len(cpu.cpreg_values)] = value
    cpu.xcr0 = value | 1


def _deadline(cpu: "Cpu", value: int) -> None:
    if cpu.deadline.pending() and value & 1:
        cpu.deadline.delete()
    else:
        cpu.arm(cpu.deadline, DEADLINE_NS + (value & 0xFFFF))


def _flags(cpu: "Cpu", value: int) -> None:
    # The privilege level changes; interrupts stay on, or the guest would sleep.
    cpu.flags = cpu.flags & ~0x3000 | (value & 3) << 12
    cpu.smbase = value & U32
    cpu.update_hflags()


def _fault(cpu: "Cpu", value: int) -> None:
    cpu.raise_exception(value, value & 0xFFF if value & 1 else None)


def _halt(cpu: "Cpu", value: int) -> None:
    del value
    cpu.halted = True
    # Something has to wake it.
    cpu.arm(cpu.deadline, DEADLINE_NS)


# -- devices -------------------------------------------------------------------------------


def _send(cpu: "Cpu", value: int) -> None:
    nic = peer(cpu, Nic)
    if nic is not None:
        nic.transmit(value, 60 + value % 1500)
        nic.transmit(value >> 7, 60)


def _net_control(cpu: "Cpu", value: int) -> None:
    nic = peer(cpu, Nic)
    if nic is not None:
        nic.add_mac(value)
        nic.command(value)


def _print(cpu: "Cpu", value: int) -> None:
    port = peer(cpu, Serial)
    if port is not None:
        port.ier = IER_RECEIVE if value & 0x100 else 0
        for byte in value.to_bytes(8, "big")[4:]:
            port.write_thr(byte)


def _receive(cpu: "Cpu", value: int) -> None:
    port = peer(cpu, Serial)
    if port is not None:
        cpu.regs[0] = port.read_rbr() + port.read_rbr() + port.read_iir()
        port.write_control(value)
        port.divider = value & 0xFFFF
        port.write_clock(value, value >> 16)


def _clock(cpu: "Cpu", value: int) -> None:
    rtc = peer(cpu, Rtc)
    if rtc is not None:
        rtc.write(REG_A, 0x25 + (value & 3))
        rtc.write(REG_B, REG_B_PIE if value & 4 else 0)
        rtc.write(16 + (value >> 3) % 100, value >> 8)
        rtc.set_alarm(value)
        rtc.cmos_index = REG_C
        cpu.regs[0] = rtc.read()


def _type(cpu: "Cpu", value: int) -> None:
    keyboard = peer(cpu, PS2Keyboard)
    if keyboard is not None:
        if value & 0x30:
            keyboard.press(value)
        else:
            keyboard.write(_KEYBOARD_BYTES[value & 7])


def _disk(cpu: "Cpu", value: int) -> None:
    disk = peer(cpu, Disk)
    if disk is not None:
        disk.submit(value >> 3, value & 0xFF)


def _card(cpu: "Cpu", value: int) -> None:
    card = peer(cpu, SdCard)
    if card is not None:
        cpu.regs[0] = card.transfer(value)


def _interrupts(cpu: "Cpu", value: int) -> None:
    controller = peer(cpu, Intc)
    if controller is not None:
        controller.write(value)


def _alarm(cpu: "Cpu", value: int) -> None:
    hpet = peer(cpu, Hpet)
    if hpet is not None:
        hpet.program(value)


def _console(cpu: "Cpu", value: int) -> None:
    console = peer(cpu, Virtio)
    if console is not None:
        console.write(value)


def _plug(cpu: "Cpu", value: int) -> None:
    device = peer(cpu, MemoryDevice)
    if device is not None:
        device.plug(value)
        if value & 0x700 == 0:
            device.request(value >> 12)


def _journal(cpu: "Cpu", value: int) -> None:
    journal = peer(cpu, Kinds)
    if journal is not None:
        journal.append(value)


_OPERATIONS: Final[dict[Op, Callable[["Cpu", int], None]]] = {
    Op.STORE: _store,
    Op.FILL: _fill,
    Op.LOAD: _load,
    Op.FP: _fp,
    Op.CPREG: _cpreg,
    Op.DEADLINE: _deadline,
    Op.FLAGS: _flags,
    Op.FAULT: _fault,
    Op.HALT: _halt,
    Op.SEND: _send,
    Op.NET_CONTROL: _net_control,
    Op.PRINT: _print,
    Op.RECEIVE: _receive,
    Op.CLOCK: _clock,
    Op.TYPE: _type,
    Op.DISK: _disk,
    Op.CARD: _card,
    Op.INTERRUPTS: _interrupts,
    Op.ALARM: _alarm,
    Op.CONSOLE: _console,
    Op.PLUG: _plug,
    Op.JOURNAL: _journal,
}
