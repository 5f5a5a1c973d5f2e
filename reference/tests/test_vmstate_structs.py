"""Structs, and arrays of pointers with their markers."""

from collections.abc import Callable
from errno import EIO

import pytest

from savevm import SEED, STRICT
from savevm.state import State
from savevm.testing.fields import load_fields as load
from savevm.testing.fields import refused_fields as refusal
from savevm.testing.fields import save_fields as save
from savevm.vmstate import (
    VMSFlags,
    VMStateDescription,
    VMStateField,
    fields,
    fieldtypes,
)

POINT = VMStateDescription("point", 2, 1, fields=(fields.uint8("x"), fields.uint8("y", 2)))


def point(x: int = 0, y: int = 0) -> State:
    return State(x=x, y=y)


# -- structs -------------------------------------------------------------------------------------


def test_a_struct_is_inline_in_its_current_version() -> None:
    field = fields.struct("p", POINT)
    assert save(State(p=point(1, 2)), field) == "0102"
    state = State(p=point())
    held = vars(state)["p"]
    load(state, "0102", field)
    assert vars(state)["p"] is held
    assert vars(held) == {"x": 1, "y": 2}


def test_a_struct_behind_a_pointer_must_be_there_or_be_made() -> None:
    assert "does not exist" in str(refusal(State(p=None), "0102", fields.struct("p", POINT)))
    made = fields.struct("p", POINT, pointer=True, new=point)
    old = point(9, 9)
    state = State(p=old)
    load(state, "0102", made)
    assert vars(vars(state)["p"]) == {"x": 1, "y": 2}
    assert vars(old) == {"x": 9, "y": 9}


def test_a_vstruct_keeps_to_its_version() -> None:
    field = fields.vstruct("p", POINT, 1)
    assert save(State(p=point(1, 2)), field) == "01"
    state = State(p=point(0, 7))
    load(state, "01", field)
    assert vars(vars(state)["p"]) == {"x": 1, "y": 7}


def test_structs_come_in_arrays() -> None:
    field = fields.struct_array("p", POINT, 2)
    assert save(State(p=[point(1, 2), point(3, 4)]), field) == "01020304"
    state = State(p=[point(), point()])
    load(state, "01020304", field)
    assert [vars(p) for p in vars(state)["p"]] == [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
    assert refusal(state, "010203", field).path == ("p[1]", "y")


@pytest.mark.parametrize("alloc", [False, True])
def test_structs_come_in_counted_arrays(alloc: bool) -> None:
    items = (
        fields.uint8("n"),
        fields.struct_varray("p", POINT, "n", "uint8", new=point if alloc else None),
    )
    state = State(n=0, p=[point(), point()])
    load(state, "010102", *items)
    assert [vars(p) for p in vars(state)["p"]][:1] == [{"x": 1, "y": 2}]
    assert len(vars(state)["p"]) == (1 if alloc else 2)
    assert save(state, *items) == "010102"


def test_a_primitive_may_be_behind_a_pointer() -> None:
    field = fields.pointer("v", fieldtypes.UINT16)
    assert field.flags & VMSFlags.POINTER
    assert save(State(v=258), field) == "0102"
    state = State(v=0)
    load(state, "0102", field)
    assert vars(state)["v"] == 258


# -- arrays of pointers ------------------------------------------------------------------------


def test_a_null_element_is_a_marker_and_the_others_have_none() -> None:
    field = fields.array_of_pointers("p", POINT, 3)
    state = State(p=[point(1, 2), None, point(3, 4)])
    assert save(state, field) == "0102" + "30" + "0304"
    target = State(p=[point(), None, point()])
    load(target, "0102" + "30" + "0304", field)
    assert vars(target)["p"][1] is None
    assert vars(vars(target)["p"][2]) == {"x": 3, "y": 4}


@pytest.mark.parametrize("wire", ["31", "00", "ff"])
def test_a_null_element_takes_no_other_marker(wire: str) -> None:
    error = refusal(State(p=[None]), wire, fields.array_of_pointers("p", POINT, 1))
    assert (error.expected, error.actual) == (0x30, int(wire, 16))
    assert (error.path, error.offset) == (("p[0]",), 0)


def test_with_auto_alloc_every_element_has_a_marker() -> None:
    field = fields.array_of_pointers("p", POINT, 3, new=point)
    kept = point(5, 5)
    assert save(State(p=[point(1, 2), None, point(3, 4)]), field) == "310102" + "30" + "310304"
    target = State(p=[kept, point(9, 9), None])
    load(target, "310102" + "30" + "310304", field)
    first, second, third = vars(target)["p"]
    assert first is kept
    assert vars(first) == {"x": 1, "y": 2}
    assert second is None
    assert vars(third) == {"x": 3, "y": 4}
    assert refusal(State(p=[None] * 3), "32", field).actual == 0x32


def test_a_valid_element_that_nobody_can_make_is_refused() -> None:
    flags = VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC | VMSFlags.ARRAY_OF_POINTER | VMSFlags.ARRAY
    field = VMStateField("p", "p", None, flags | VMSFlags.STRUCT, 8, 1, vmsd=POINT)
    assert "does not exist" in str(refusal(State(p=[None]), "310102", field))


def test_primitives_may_be_behind_an_array_of_pointers() -> None:
    field = fields.pointer_array("v", fieldtypes.UINT16, 3)
    assert save(State(v=[1, None, 2]), field) == "0001" + "30" + "0002"
    state = State(v=[0, None, 0])
    load(state, "0001" + "30" + "0002", field)
    assert vars(state)["v"] == [1, None, 2]


@pytest.mark.parametrize("new", [None, point])
def test_a_cut_marker_is_the_end_of_the_stream(new: Callable[[], State] | None) -> None:
    field = fields.array_of_pointers("p", POINT, 1, new=new)
    for profile in (STRICT, SEED):
        error = refusal(State(p=[None]), "", field, profile=profile)
        assert (error.errno, error.path) == (EIO, ("p[0]",))
