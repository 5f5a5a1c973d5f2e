"""The CPU's floating point unit: a struct inside the CPU's state.

It is a state and a description of its own, so that its hooks get an ``Fpu``
and nothing else: a hook that is attached to the description of an embedded
struct but expects the whole device is a bug class of its own (exynos4210_uart,
QEMU 617dff091f).
"""

from typing import Final

from savevm.devices.base import Fault, call_post_load, first_fault, outside
from savevm.state import State
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription

FP_REGISTERS: Final = 8
ONE: Final = 0x3FF0_0000_0000_0000
"""Bit pattern of 1.0; values travel and are kept as bit patterns, so that no
NaN changes on the way."""
_EXPONENT: Final = 0x7FF0_0000_0000_0000

vmstate_fpu: Final = VMStateDescription(
    "cpu/fpu",
    2,
    1,
    fields=(
        fields.array("fpregs", fieldtypes.CPU_DOUBLE, FP_REGISTERS),
        fields.float64("accumulator"),
        fields.cpu_double("last_operand", 2),
        fields.uint8("fpstt"),
        fields.uint16("fpuc"),
        fields.uint16("fpregs_format", 2),
    ),
    post_load=call_post_load,
)


class Fpu(State):
    """Registers of an x87-like unit.

    Attributes:
        fpregs: eight doubles as bit patterns.
        last_operand: what was pushed last; since version 2.
        accumulator: one more, of the type that only the seed's QEMU has.
        fpstt: top of the register stack, 0..7, an index.
        fpuc: control word, the guest's to write.
        fpregs_format: 0; QEMU's ``cpu_post_load`` refuses anything else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """State after power-on."""
        self.fpregs = [0] * FP_REGISTERS
        self.accumulator = ONE
        self.last_operand = 0
        self.fpstt = 0
        self.fpuc = 0x37F
        self.fpregs_format = 0

    def check_stack_top(self) -> Fault | None:
        """B01: the top of the stack indexes ``fpregs``."""
        return stack_top_fault(self)

    def check_format(self) -> Fault | None:
        """B34: only one format of registers is known."""
        return format_fault(self)

    def post_load(self, version_id: int) -> int | None:
        """Refuse a stack top or a format that does not exist."""
        del version_id
        fault = first_fault((self.check_stack_top(), self.check_format()))
        if fault is not None:
            raise fault.error()
        return 0

    def push(self, pattern: int) -> None:
        """``FLD``: put a value on the stack and fold it into the accumulator."""
        self.fpstt = (self.fpstt - 1) % FP_REGISTERS
        self.fpregs[self.fpstt] = self.last_operand = pattern
        # Bits are mixed, exponents are not: no infinity or NaN ever comes out.
        self.accumulator = (self.accumulator & _EXPONENT) ^ (pattern & ~_EXPONENT)


def stack_top_fault(s: Fpu) -> Fault | None:
    """``fpstt`` is an index into ``fpregs``."""
    return outside("fpu.fpstt", s.fpstt, 0, FP_REGISTERS - 1)


def format_fault(s: Fpu) -> Fault | None:
    """``fpregs_format`` is 0."""
    return outside("fpu.fpregs_format", s.fpregs_format, 0, 0)
