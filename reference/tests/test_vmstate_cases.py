"""Seven small cases of QEMU's own unit test of vmstate, as data.

Source: QEMU ``tests/unit/test-vmstate.c`` at the seed.  Load cases carry one
trailing zero byte that must stay unread.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields, vmstate_load_state, vmstate_save_state


def not_skipped(state: State, version_id: int) -> bool:
    del version_id
    return not vars(state)["skip_c_e"]


PRIMITIVE = VMStateDescription(
    "simple/primitive",
    1,
    1,
    fields=(
        fields.bool_("b_1"), fields.bool_("b_2"), fields.uint8("u8_1"), fields.uint16("u16_1"),
        fields.uint32("u32_1"), fields.uint64("u64_1"), fields.int8("i8_1"), fields.int8("i8_2"),
        fields.int16("i16_1"), fields.int16("i16_2"), fields.int32("i32_1"),
        fields.int32("i32_2"), fields.int64("i64_1"), fields.int64("i64_2"),
    ),
)  # fmt: skip
VERSIONED = VMStateDescription(
    "test/versioned",
    2,
    1,
    fields=(
        fields.uint32("a"), fields.uint32("b", 2), fields.uint32("c"), fields.uint64("d"),
        fields.uint32("e", 2), fields.uint64("f", 2),
    ),
)  # fmt: skip
SKIPPING = VMStateDescription(
    "test/skip",
    2,
    1,
    fields=(
        fields.uint32("a"), fields.uint32("b"), fields.uint32("c", exists=not_skipped),
        fields.uint64("d"), fields.uint32("e", exists=not_skipped), fields.uint64("f", 2),
    ),
)  # fmt: skip

PRIMITIVE_VALUES: dict[str, object] = {
    "b_1": True, "b_2": False, "u8_1": 130, "u16_1": 512, "u32_1": 70000, "u64_1": 12121212,
    "i8_1": 65, "i8_2": -65, "i16_1": 512, "i16_2": -512, "i32_1": 70000, "i32_2": -70000,
    "i64_1": 12121212, "i64_2": -12121212,
}  # fmt: skip
PRIMITIVE_WIRE = bytes.fromhex(
    "0100820200000111700000000000b8f47c41bf0200fe0000011170fffeee900000000000b8f47cffffffffff470b84"
)


@dataclass(frozen=True)
class Case:
    name: str
    vmsd: VMStateDescription
    version_id: int
    wire: str
    before: Mapping[str, object]
    after: Mapping[str, object]


LOADS = [
    Case(
        "primitive", PRIMITIVE, 1, PRIMITIVE_WIRE.hex() + "00",
        dict.fromkeys(PRIMITIVE_VALUES, 0), PRIMITIVE_VALUES,
    ),
    Case(
        "versioned v1", VERSIONED, 1, "0000000a0000001e000000000000002800",
        {"a": 0, "b": 200, "c": 0, "d": 0, "e": 500, "f": 600},
        {"a": 10, "b": 200, "c": 30, "d": 40, "e": 500, "f": 600},
    ),
    Case(
        "versioned v2", VERSIONED, 2,
        "0000000a000000140000001e000000000000002800000032000000000000003c00",
        {"a": 0, "b": 200, "c": 0, "d": 0, "e": 500, "f": 600},
        {"a": 10, "b": 20, "c": 30, "d": 40, "e": 50, "f": 60},
    ),
    Case(
        "field_exists, not skipped", SKIPPING, 2,
        "0000000a000000140000001e000000000000002800000032000000000000003c00",
        {"skip_c_e": False, "a": 0, "b": 0, "c": 300, "d": 0, "e": 500, "f": 0},
        {"skip_c_e": False, "a": 10, "b": 20, "c": 30, "d": 40, "e": 50, "f": 60},
    ),
    Case(
        "field_exists, skipped", SKIPPING, 2, "0000000a000000140000000000000028000000000000003c00",
        {"skip_c_e": True, "a": 0, "b": 0, "c": 300, "d": 0, "e": 500, "f": 0},
        {"skip_c_e": True, "a": 10, "b": 20, "c": 300, "d": 40, "e": 500, "f": 60},
    ),
]  # fmt: skip
ONE_TO_SIX = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}
SAVES = [
    Case("primitive", PRIMITIVE, 1, PRIMITIVE_WIRE.hex(), PRIMITIVE_VALUES, PRIMITIVE_VALUES),
    Case(
        "field_exists, not skipped", SKIPPING, 2,
        "0000000100000002000000030000000000000004000000050000000000000006",
        ONE_TO_SIX | {"skip_c_e": False}, {},
    ),
    Case(
        "field_exists, skipped", SKIPPING, 2, "000000010000000200000000000000040000000000000006",
        ONE_TO_SIX | {"skip_c_e": True}, {},
    ),
]  # fmt: skip


@pytest.mark.parametrize("traced", [False, True], ids=["compiled", "field by field"])
@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("case", LOADS, ids=lambda case: case.name)
def test_a_load_gives_qemus_values_and_leaves_the_trailing_byte(
    case: Case, profile: Profile, traced: bool
) -> None:
    wire = bytes.fromhex(case.wire)
    state = State(**case.before)
    f = QEMUFileReader(wire, profile=profile, trace=TraceLog() if traced else None)
    vmstate_load_state(f, case.vmsd, state, case.version_id)
    assert vars(state) == case.after
    assert f.tell() == len(wire) - 1
    assert f.get_byte() == 0
    assert f.get_error() == 0


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("case", SAVES, ids=lambda case: case.name)
def test_a_save_gives_qemus_bytes(case: Case, described: bool) -> None:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, case.vmsd, State(**case.before), {} if described else None)
    f.flush()
    assert sink.data.hex() == case.wire


PIECES = {
    "nothing": b"",
    "all but two bytes": PRIMITIVE_WIRE[:-1],
    "first half": PRIMITIVE_WIRE[: len(PRIMITIVE_WIRE) // 2],
    "second half": PRIMITIVE_WIRE[len(PRIMITIVE_WIRE) // 2 :],
}


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_a_piece_of_the_primitive_state_fails_to_load(piece: bytes, profile: Profile) -> None:
    state = State(**dict.fromkeys(PRIMITIVE_VALUES, 0))
    with pytest.raises(LoadError):
        vmstate_load_state(QEMUFileReader(piece, profile=profile), PRIMITIVE, state, 1)


def test_every_truncation_of_the_primitive_state_names_the_field_it_ends_in() -> None:
    starts = dict(_starts())
    for end in range(len(PRIMITIVE_WIRE)):
        state = State(**dict.fromkeys(PRIMITIVE_VALUES, 0))
        with pytest.raises(LoadError) as caught:
            vmstate_load_state(QEMUFileReader(PRIMITIVE_WIRE[:end]), PRIMITIVE, state, 1)
        (name,) = caught.value.path
        last = [field for field, start in starts.items() if start <= end][-1]
        assert name == last
        assert caught.value.offset == starts[name]


def _starts() -> list[tuple[str, int]]:
    offset, found = 0, []
    for item in PRIMITIVE.fields:
        found.append((item.name, offset))
        offset += item.size
    return found
