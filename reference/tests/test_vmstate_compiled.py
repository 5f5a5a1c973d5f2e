"""Runs of fields in one step: which fields join, and when a run is declined."""

import tracemalloc

import pytest

from savevm import LoadError
from savevm.qemufile import BytesSink, ChunkSource, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.vmstate import (
    VMSFlags,
    VMStateDescription,
    VMStateField,
    fields,
    fieldtypes,
    vmstate_load_state,
    vmstate_save_state,
)
from savevm.vmstate.compiled import Run, Step, load_run, pack_run, plan_for
from savevm.vmstate.description import Vmdesc

A, B, C = fields.uint8("a"), fields.uint16("b"), fields.uint32("c")


def plan(*items: VMStateField, version_id: int = 1) -> list[str]:
    """Each step as the names in it, a run's in brackets."""
    return [_shown(step) for step in plan_for(VMStateDescription("d", 9, fields=items), version_id)]


def _shown(step: Step) -> str:
    if isinstance(step, Run):
        return f"[{' '.join(item.name for item in step.fields)}]"
    return step.name


def test_neighbours_of_fixed_size_join() -> None:
    joined = (A, fields.unused(3), fields.buffer("d", 4), fields.array("e", fieldtypes.INT8, 2), B)
    assert plan(*joined) == ["[a unused d e b]"]


@pytest.mark.parametrize(
    "item",
    [
        fields.uint8("x", exists=lambda state, version: True),
        fields.varray("x", fieldtypes.UINT8, "n"),
        fields.vbuffer("x", "n"),
        fields.uint8_equal("x"),
        fields.struct("x", VMStateDescription("i")),
        fields.pointer_array("x", fieldtypes.UINT8, 2),
        fields.validate("x", lambda state, version: True),
        fields.buffer("x", -1),
        fields.buffer("x", 1 << 40),
        fields.array("x", fieldtypes.UINT8, -1),
        fields.array("x", fieldtypes.UINT8, 1 << 40),
        VMStateField("x", "x", fieldtypes.BUFFER, VMSFlags.ARRAY, 2, 2),
        VMStateField("x", "", fieldtypes.UNUSED, VMSFlags.ARRAY, 2, 2),
        VMStateField("x", "", fieldtypes.UINT8, VMSFlags.SINGLE, 1),
    ],
)
def test_a_field_whose_place_or_size_may_change_ends_a_run(item: VMStateField) -> None:
    assert plan(A, B, item, C) == ["[a b]", "x", "[c]"]


def test_fields_of_newer_versions_are_left_out() -> None:
    newer = fields.uint8("x", 2)
    assert plan(A, newer, B) == ["[a b]"]
    assert plan(A, newer, B, version_id=2) == ["[a x b]"]


def test_a_long_run_is_cut_into_bounded_ones() -> None:
    half = (1 << 19) + 1
    assert plan(A, fields.unused(half), fields.buffer("d", half), B) == ["[a unused]", "[d b]"]


def test_plans_are_kept_and_their_number_is_bounded() -> None:
    vmsd = VMStateDescription("d", 1000, fields=(A,))
    assert plan_for(vmsd, 1) is plan_for(vmsd, 1)
    for version_id in range(1000):
        plan_for(vmsd, version_id)
    assert len(vmsd.plans) < 100


def test_a_run_is_loaded_from_a_source_in_pieces() -> None:
    state = State(a=0, b=0, c=0)
    f = QEMUFileReader(ChunkSource.split(bytes(range(7)), [2]))
    vmstate_load_state(f, VMStateDescription("d", fields=(A, B, C)), state, 1)
    assert vars(state) == {"a": 0, "b": 0x0102, "c": 0x03040506}


class Doubling(State):
    """A device that keeps half of what it is told."""

    def __init__(self) -> None:
        super().__init__(half=0, c=0)

    @property
    def b(self) -> int:
        held: int = vars(self)["half"]
        return 2 * held

    @b.setter
    def b(self, value: int) -> None:
        vars(self)["half"] = value // 2


class Noting(State):
    def __init__(self) -> None:
        super().__init__(b=0, c=0)
        vars(self)["noted"] = []

    def __setattr__(self, name: str, value: object) -> None:
        vars(self)["noted"].append(name)
        super().__setattr__(name, value)


class Slotted:
    __slots__ = ("b", "c")

    def __init__(self) -> None:
        self.b = self.c = 0


@pytest.mark.parametrize("device", [Doubling(), Noting(), Slotted()])
def test_an_attribute_that_is_more_than_a_value_is_set_as_one(device: object) -> None:
    vmsd = VMStateDescription("d", fields=(B, C))
    for _ in range(2):
        vmstate_load_state(QEMUFileReader(b"\0\x08\0\0\0\x07"), vmsd, device, 1)
    assert (device.b, device.c) == (8, 7)  # type: ignore[attr-defined]
    if isinstance(device, Doubling):
        assert vars(device) == {"half": 4, "c": 7}
    if isinstance(device, Noting):
        assert vars(device)["noted"] == ["b", "c"] * 2


def test_an_array_in_a_bytearray_is_loaded_into_it() -> None:
    vmsd = VMStateDescription("d", fields=(fields.array("v", fieldtypes.UINT8, 3),))
    state = State(v=bytearray(4))
    vmstate_load_state(QEMUFileReader(b"\1\2\3"), vmsd, state, 1)
    assert vars(state)["v"] == b"\1\2\3\0"


def test_a_claim_of_a_large_buffer_does_not_gather_the_stream() -> None:
    vmsd = VMStateDescription("d", fields=(fields.buffer("v", 1 << 40),))
    f = QEMUFileReader(ChunkSource.split(bytes(1 << 20), [4096]))
    tracemalloc.start()
    try:
        with pytest.raises(LoadError, match="holds 4 bytes"):
            vmstate_load_state(f, vmsd, State(v=bytearray(4)), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18


@pytest.mark.parametrize(
    ("values", "wire"),
    [
        ({"a": 1, "b": 2, "c": 3}, "01000200000003"),
        ({"a": 0x101, "b": -1, "c": 1 << 40}, "01ffff00000000"),
    ],
)
def test_a_run_is_saved_as_its_fields_are(values: dict[str, int], wire: str) -> None:
    vmsd = VMStateDescription("d", fields=(A, B, C))
    vmdescs: list[Vmdesc | None] = [None, {}]
    for vmdesc in vmdescs:
        sink = BytesSink()
        f = QEMUFileWriter(sink)
        vmstate_save_state(f, vmsd, State(**values), vmdesc)
        f.flush()
        assert sink.data.hex() == wire


def test_a_run_whose_bytes_are_there_goes_in_one_step() -> None:
    items = (A, fields.array("n", fieldtypes.INT16, 2), fields.unused(1), fields.buffer("d", 2), B)
    (run,) = plan_for(VMStateDescription("d", fields=items), 1)
    assert isinstance(run, Run)
    wire = bytes.fromhex("01" + "0002fffd" + "00" + "6162" + "0005")
    state = State(a=0, b=0, n=[0, 0, 7], d=bytearray(b"xyz"))
    f = QEMUFileReader(wire)
    assert load_run(f, run, state)
    assert vars(state) == {"a": 1, "b": 5, "n": [2, -3, 7], "d": b"abz"}
    assert f.tell() == len(wire)
    assert pack_run(run, state) == wire
    for cut in range(len(wire)):
        f = QEMUFileReader(wire[:cut])
        assert not load_run(f, run, state)
        assert f.tell() == 0


@pytest.mark.parametrize("items", [(A,), (A, B), (fields.unused(2),), (A, fields.buffer("d", 1))])
def test_a_run_of_few_fields_goes_in_one_step_too(items: tuple[VMStateField, ...]) -> None:
    (run,) = plan_for(VMStateDescription("d", fields=items), 1)
    assert isinstance(run, Run)
    state = State(a=0, b=0, d=bytearray(1))
    wire = bytes(range(1, run.struct.size + 1))
    assert load_run(QEMUFileReader(wire), run, state)
    if items[0] is A:
        assert pack_run(run, state) == wire
        assert vars(state)["a"] == 1


def test_a_missing_buffer_is_saved_as_zeros() -> None:
    vmsd = VMStateDescription("d", fields=(A, fields.buffer("v", 2)))
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, vmsd, State(a=1, v=None), None)
    f.flush()
    assert sink.data.hex() == "010000"
