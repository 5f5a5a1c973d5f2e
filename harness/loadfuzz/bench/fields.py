"""Runs of fixed-size fields against reading them one by one."""

from typing import Final

from loadfuzz.bench.results import Figure, best_of
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.vmstate import VMStateDescription, vmstate_load_state, vmstate_save_state
from savevm.vmstate import fields as f
from savevm.vmstate.fieldtypes import UINT32
from savevm.vmstate.loading import load_field

GOAL: Final = 5.0
_LOADS: Final = 400


def _device() -> tuple[VMStateDescription, State]:
    """A device as real ones are: some dozens of registers, a few arrays."""
    makers = (f.uint8, f.uint16, f.uint32, f.uint64, f.int32, f.bool_)
    registers = tuple(makers[index % len(makers)](f"reg{index}") for index in range(60))
    tables = (f.array("table", UINT32, 32), f.buffer("fifo", 64), f.unused(4))
    vmsd = VMStateDescription("bench", fields=(*registers, *tables))
    state = State(**{f"reg{index}": index % 2 for index in range(60)})
    state.__dict__.update(table=[7] * 32, fifo=bytearray(64))
    return vmsd, state


def measure() -> list[Figure]:
    """Loads of one device, microseconds each."""
    vmsd, state = _device()
    sink = BytesSink()
    writer = QEMUFileWriter(sink)
    vmstate_save_state(writer, vmsd, state, None)
    writer.flush()
    data = bytes(sink.data)

    def in_runs() -> None:
        for _ in range(_LOADS):
            vmstate_load_state(QEMUFileReader(data), vmsd, state, 1)

    def one_by_one() -> None:
        for _ in range(_LOADS):
            reader = QEMUFileReader(data)
            for field in vmsd.fields:
                load_field(reader, vmsd, field, state, 1)

    fast, slow = (1e6 * seconds / _LOADS for seconds in best_of(in_runs, one_by_one))
    return [
        Figure(
            "field-runs", fast, "us/load", slow, slow / fast, GOAL,
            "the same 63 fields read one by one",
        )
    ]  # fmt: skip
