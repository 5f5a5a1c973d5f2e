"""Primitive types, arrays and what must exist: values, bounds, errors."""

import tracemalloc
from errno import EINVAL, EIO, EPERM

import pytest

from savevm import SEED, STRICT, LoadError, Profile, SaveError
from savevm.constants import MAX_ELEMENTS
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.testing.fields import load_fields as load
from savevm.testing.fields import refused_fields as refusal
from savevm.testing.fields import save_fields as save
from savevm.vmstate import (
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
    fields,
    fieldtypes,
    vmstate_load_state,
    vmstate_save_state,
)
from savevm.vmstate.elements import element_count

MIB = 1 << 20


# -- primitive types -----------------------------------------------------------------

PRIMITIVES = [
    (fields.int8, -128, "80"),
    (fields.int16, -2, "fffe"),
    (fields.int32, -(1 << 31), "80000000"),
    (fields.int64, -1, "ff" * 8),
    (fields.uint8, 255, "ff"),
    (fields.uint16, 0x1234, "1234"),
    (fields.uint32, 0x12345678, "12345678"),
    (fields.uint64, 1 << 63, "8000000000000000"),
    (fields.bool_, True, "01"),
    (fields.bool_, False, "00"),
    (fields.float64, 0x3FF0000000000000, "3ff0000000000000"),
    (fields.cpu_double, 0x11223344_55667788, "1122334455667788"),
]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("make", "value", "wire"), PRIMITIVES)
def test_a_primitive_travels_big_endian(make, value: int, wire: str, traced: bool) -> None:  # type: ignore[no-untyped-def]
    assert save(State(v=value), make("v")) == wire
    state = State(v=None)
    load(state, wire, make("v"), traced=traced)
    assert vars(state)["v"] == value
    assert type(vars(state)["v"]) is type(value)


@pytest.mark.parametrize(
    ("info", "size", "code", "low", "high"),
    [
        (fieldtypes.INT8, 1, "b", -128, 127),
        (fieldtypes.INT16, 2, "h", -0x8000, 0x7FFF),
        (fieldtypes.INT32, 4, "i", -(1 << 31), (1 << 31) - 1),
        (fieldtypes.INT64, 8, "q", -(1 << 63), (1 << 63) - 1),
        (fieldtypes.UINT8, 1, "B", 0, 255),
        (fieldtypes.UINT16, 2, "H", 0, 0xFFFF),
        (fieldtypes.UINT32, 4, "I", 0, (1 << 32) - 1),
        (fieldtypes.UINT64, 8, "Q", 0, (1 << 64) - 1),
        (fieldtypes.FLOAT64, 8, "Q", 0, (1 << 64) - 1),
        (fieldtypes.CPU_DOUBLE, 8, "Q", 0, (1 << 64) - 1),
        (fieldtypes.BOOL, 1, "?", 0, 1),
        (fieldtypes.INT32_LE, 4, "", 0, (1 << 31) - 1),
        (fieldtypes.UINT16_EQUAL, 2, "", 0, 0xFFFF),
    ],
    ids=lambda info: getattr(info, "name", None),
)
def test_a_type_knows_its_size_and_range(
    info: VMStateInfo, size: int, code: str, low: int, high: int
) -> None:
    assert (info.size, info.code, info.lo, info.hi) == (size, code, low, high)


@pytest.mark.parametrize("wire", ["01", "02", "80", "ff"])
def test_any_byte_but_zero_is_true(wire: str) -> None:
    for traced in (False, True):
        state = State(v=False)
        load(state, wire, fields.bool_("v"), traced=traced)
        assert vars(state)["v"] is True


@pytest.mark.parametrize(
    ("make", "value", "wire"),
    [
        (fields.int32, 1 << 31, "80000000"),
        (fields.uint8, 0x1FF, "ff"),
        (fields.uint16, -1, "ffff"),
        (fields.bool_, 7, "01"),
    ],
)
def test_a_value_out_of_range_is_cut_to_its_width(make, value: int, wire: str) -> None:  # type: ignore[no-untyped-def]
    assert save(State(v=value), make("v")) == wire


EQUALS = [
    (fields.uint8_equal, "uint8 equal", 200, "c8", "c9"),
    (fields.uint16_equal, "uint16 equal", 0x1234, "1234", "1235"),
    (fields.uint32_equal, "uint32 equal", 7, "00000007", "00000008"),
    (fields.uint64_equal, "uint64 equal", 7, "0000000000000007", "0000000000000008"),
    (fields.int32_equal, "int32 equal", -1, "ffffffff", "fffffffe"),
    (fields.int64_equal, "int64 equal", -1, "ff" * 8, "fe" * 8),
]


@pytest.mark.parametrize(("make", "name", "value", "wire", "other"), EQUALS)
def test_an_equal_field_must_have_the_destinations_value(  # type: ignore[no-untyped-def]
    make, name: str, value: int, wire: str, other: str
) -> None:
    field = make("v")
    assert field.type_name() == name
    assert save(State(v=value), field) == wire
    load(State(v=value), wire, field)
    state = State(v=value)
    error = refusal(state, other, field)
    assert (error.errno, error.offset, error.path, error.expected) == (EINVAL, 0, ("v",), value)
    assert error.actual != value
    assert vars(state)["v"] == value


@pytest.mark.parametrize("loaded", [0, 5, 10])
def test_an_le_field_takes_what_the_destination_can_hold(loaded: int) -> None:
    state = State(v=10)
    load(state, f"{loaded:08x}", fields.int32_le("v"))
    assert vars(state)["v"] == loaded


@pytest.mark.parametrize("wire", ["0000000b", "ffffffff", "7fffffff"])
def test_an_le_field_refuses_more_and_less(wire: str) -> None:
    state = State(v=10)
    error = refusal(state, wire, fields.int32_le("v"))
    assert (error.expected, error.path, error.offset) == (10, ("v",), 0)
    assert "expecting positive value <= 10" in error.qemu
    assert vars(state)["v"] == 10


class Noting(QEMUFileReader):
    """A reader that notes complaints and lets the load go on."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.noted: list[str] = []

    def complain(self, error: LoadError) -> None:
        self.noted.append(error.reason)


@pytest.mark.parametrize(
    ("field", "kept"),
    [(fields.int32_le("v"), 10), (fields.int32_equal("v"), 10)],
)
def test_a_value_that_is_only_complained_of_is_not_taken(field: VMStateField, kept: int) -> None:
    state, f = State(v=10, w=0), Noting(b"\0\0\0\x0b\x07")
    vmstate_load_state(f, VMStateDescription("d", fields=(field, fields.uint8("w"))), state, 1)
    assert vars(state) == {"v": kept, "w": 7}
    assert len(f.noted) == 1


def test_a_hook_that_is_only_complained_of_ends_no_load() -> None:
    vmsd = VMStateDescription("d", fields=(fields.uint8("v"),), post_load=lambda state, version: -5)
    outer = VMStateDescription("o", fields=(fields.struct("p", vmsd), fields.uint8("w")))
    state, f = State(p=State(v=0), w=0), Noting(b"\x01\x02")
    assert vmstate_load_state(f, outer, state, 1) == 0
    assert vmstate_load_state(Noting(b"\x01"), vmsd, State(v=0), 1) == 0
    assert (vars(state)["w"], f.noted) == (2, ["post_load refused with -5"])


def test_under_the_seed_a_cut_equal_field_is_a_cut_field() -> None:
    for field in (fields.uint16_equal("v"), fields.int32_le("v")):
        error = refusal(State(v=9), "", field, profile=SEED)
        assert error.errno == EIO


# -- arrays ----------------------------------------------------------------------------


def test_what_is_no_array_counts_as_one() -> None:
    assert element_count(fields.uint8("v"), State(v=5)) == 1
    assert element_count(fields.array("v", fieldtypes.UINT8, 3), State(v=[])) == 3
    assert element_count(fields.varray("v", fieldtypes.UINT8, "n"), State(n=-2)) == -2


@pytest.mark.parametrize("traced", [False, True])
def test_an_array_has_no_length_on_the_wire(traced: bool) -> None:
    field = fields.array("v", fieldtypes.UINT16, 3)
    assert save(State(v=[1, 2, 3]), field) == "000100020003"
    state = State(v=[9, 9, 9, 9])
    held = vars(state)["v"]
    load(state, "000100020003", field, traced=traced)
    assert vars(state)["v"] is held
    assert held == [1, 2, 3, 9]


@pytest.mark.parametrize("traced", [False, True])
def test_a_cut_array_names_the_element(traced: bool) -> None:
    with pytest.raises(LoadError) as caught:
        load(
            State(v=[0, 0, 0]), "00010002ff", fields.array("v", fieldtypes.UINT16, 3), traced=traced
        )
    assert str(caught.value) == "v[2]: needed 2 bytes for field, 1 available (offset 0x4)"


def test_an_array_the_state_has_no_room_for_is_refused() -> None:
    field = fields.array("v", fieldtypes.UINT8, 3)
    error = refusal(State(v=[0, 0]), "010203", field)
    assert (error.expected, error.actual, error.path) == (2, 3, ("v[0]",))
    assert "does not exist" in str(refusal(State(v=None), "010203", field))


def test_saving_more_elements_than_there_are_is_a_save_error() -> None:
    with pytest.raises(SaveError, match="v: 2 elements, 3 to be saved"):
        save(State(v=[1, 2]), fields.array("v", fieldtypes.UINT8, 3))
    with pytest.raises(SaveError, match="v: 0 elements"):
        save(State(v=None, n=1), fields.varray("v", fieldtypes.UINT8, "n"))


def test_an_array_of_buffers_is_loaded_buffer_by_buffer() -> None:
    field = VMStateField("v", "v", fieldtypes.BUFFER, VMSFlags.ARRAY, 2, 2)
    state = State(v=[bytearray(2), bytearray(2)])
    load(state, "01020304", field)
    assert vars(state)["v"] == [b"\x01\x02", b"\x03\x04"]
    assert save(state, field) == "01020304"


COUNTS = [
    ("int32", fields.int32, "00000002"),
    ("uint32", fields.uint32, "00000002"),
    ("uint16", fields.uint16, "0002"),
    ("uint8", fields.uint8, "02"),
]


@pytest.mark.parametrize("alloc", [False, True])
@pytest.mark.parametrize(("count", "make", "wire"), COUNTS)
def test_a_varray_has_as_many_elements_as_its_count_says(  # type: ignore[no-untyped-def]
    count: str, make, wire: str, alloc: bool
) -> None:
    items = (make("n"), fields.varray("v", fieldtypes.UINT16, "n", count, alloc=alloc))
    assert items[1].flags & VMSFlags[f"VARRAY_{count.upper()}"]
    assert save(State(n=2, v=[1, 2, 3]), *items) == wire + "00010002"
    state = State(n=0, v=[9, 9, 9])
    load(state, wire + "00010002", *items)
    assert vars(state) == {"n": 2, "v": [1, 2] if alloc else [1, 2, 9]}


@pytest.mark.parametrize("alloc", [False, True])
def test_no_elements_are_a_count_too(alloc: bool) -> None:
    items = (fields.int32("n"), fields.varray("v", fieldtypes.UINT8, "n", "int32", alloc=alloc))
    state = State(n=5, v=[1, 2])
    load(state, "00000000", *items)
    assert vars(state) == {"n": 0, "v": [] if alloc else [1, 2]}
    assert save(state, *items) == "00000000"


def test_multiply_elements_counts_in_units() -> None:
    items = (fields.uint8("n"), fields.varray("v", fieldtypes.UINT8, "n", "uint8", multiply=3))
    assert save(State(n=1, v=[1, 2, 3, 4]), *items) == "01010203"
    state = State(n=0, v=[0] * 6)
    load(state, "02010203040506", *items)
    assert vars(state)["v"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("count", "make", "wire", "claimed"),
    [
        ("int32", fields.int32, "ffffffff", -1),
        ("int32", fields.int32, "80000000", -(1 << 31)),
        ("int32", fields.int32, "00000004", 4),
        ("uint32", fields.uint32, "ffffffff", 0xFFFFFFFF),
        ("uint16", fields.uint16, "ffff", 0xFFFF),
        ("uint8", fields.uint8, "04", 4),
    ],
)
def test_a_count_outside_its_array_is_refused(  # type: ignore[no-untyped-def]
    count: str, make, wire: str, claimed: int
) -> None:
    items = (make("n"), fields.varray("v", fieldtypes.UINT8, "n", count))
    error = refusal(State(n=0, v=[0, 0, 0]), wire + "00" * 8, *items)
    assert (error.errno, error.expected, error.actual) == (EINVAL, 3, claimed)
    assert error.path == ("v[0]",)
    assert error.offset == len(wire) // 2


@pytest.mark.parametrize("wire", ["ffffffff", "80000001"])
def test_under_the_seed_a_negative_count_is_silently_nothing(wire: str) -> None:
    state = State(n=0, v=[7])
    for make, count in ((fields.int32, "int32"), (fields.uint32, "uint32")):
        # n_elems is an int, whatever the count's own type is.
        f = load(
            state, wire + "01", make("n"), fields.varray("v", fieldtypes.UINT8, "n", count),
            profile=SEED,
        )  # fmt: skip
        assert f.tell() == 4
        assert vars(state)["v"] == [7]


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize(
    ("make", "count", "wire"),
    [
        (fields.int32, "int32", "ffffffff"),
        (fields.uint32, "uint32", "7fffffff"),
        (fields.uint32, "uint32", f"{MAX_ELEMENTS + 1:08x}"),
    ],
)
def test_no_count_makes_the_loader_allocate_on_its_word(  # type: ignore[no-untyped-def]
    make, count: str, wire: str, profile: Profile
) -> None:
    items = (make("n"), fields.varray("v", fieldtypes.UINT8, "n", count, alloc=True))
    tracemalloc.start()
    try:
        error = refusal(State(n=0, v=[]), wire + "00" * 50, *items, profile=profile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.expected == MAX_ELEMENTS
    assert peak < MIB


def test_a_cut_allocated_array_leaves_the_old_one() -> None:
    state = State(n=0, v=["old"])
    items = (fields.uint8("n"), fields.varray("v", fieldtypes.UINT8, "n", "uint8", alloc=True))
    assert refusal(state, "0301", *items).path == ("v[1]",)
    assert vars(state)["v"] == ["old"]


# -- what must exist -----------------------------------------------------------------------------


def test_a_validation_writes_nothing_and_stops_a_load() -> None:
    positive = fields.validate("v is positive", lambda state, _version: state.v > 0)
    assert positive.flags & VMSFlags.MUST_EXIST
    items = (fields.int8("v"), positive)
    assert save(State(v=1), *items) == "01"
    load(State(v=0), "01", *items)
    error = refusal(State(v=1), "ff", *items)
    assert (error.errno, error.path, error.offset) == (EPERM, ("v is positive",), 1)
    assert error.qemu == "Input validation failed: d/v is positive"


@pytest.mark.parametrize("described", [False, True])
def test_a_state_that_no_destination_would_take_is_not_saved(described: bool) -> None:
    positive = fields.validate("v is positive", lambda state, _version: state.v > 0)
    vmsd = VMStateDescription("d", fields=(fields.int8("v"), positive))
    with pytest.raises(
        SaveError, match="Output state validation failed: d/v is positive"
    ) as caught:
        vmstate_save_state(QEMUFileWriter(BytesSink()), vmsd, State(v=0), {} if described else None)
    assert caught.value.errno == EPERM


def test_field_exists_overrides_the_version() -> None:
    field = fields.uint8("v", 9, lambda _state, version: version == 1)
    assert save(State(v=1), field) == "01"
    state = State(v=0)
    load(state, "07", field)
    assert vars(state)["v"] == 7
    assert save(State(v=1), field, version_id=2) == ""
    f = load(state, "08", field, version_id=2)
    assert f.tell() == 0


def test_fields_of_newer_versions_are_not_there() -> None:
    items = (fields.uint8("a"), fields.uint8("b", 2), fields.array("c", fieldtypes.UINT8, 2, 3))
    state = State(a=1, b=2, c=[3, 4])
    assert save(state, *items) == "01"
    assert save(state, *items, version_id=2) == "0102"
    assert save(state, *items, version_id=3) == "01020304"


def test_a_custom_type_is_a_field_like_any_other() -> None:
    info = VMStateInfo(
        "pair",
        lambda f, _current, _size, _field, _op: (f.get_byte(), f.get_byte()),
        lambda f, value, _size, _field, _op: f.put_buffer(bytes(value)),
    )
    field = fields.custom("v", info, size=2, name="pair of v")
    assert (field.type_name(), field.name) == ("pair", "pair of v")
    assert save(State(v=(1, 2)), field) == "0102"
    state = State(v=None)
    load(state, "0304", field)
    assert vars(state)["v"] == (3, 4)
    assert refusal(state, "03", field).path == ("pair of v",)


def test_a_field_that_is_neither_has_an_unknown_type() -> None:
    assert VMStateField("v", "").type_name() == "unknown"
