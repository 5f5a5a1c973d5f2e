"""Buffers, unused bytes and bitmaps on the wire: sizes, bounds, errors."""

import tracemalloc
from errno import EINVAL

import pytest

from savevm import SEED, STRICT, LoadError, Profile, SaveError
from savevm.constants import MAX_ALLOC
from savevm.state import State
from savevm.testing.fields import load_fields as load
from savevm.testing.fields import refused_fields as refusal
from savevm.testing.fields import save_fields as save
from savevm.vmstate import (
    VMSFlags,
    VMStateField,
    fields,
)

MIB = 1 << 20


# -- buffers -----------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_a_buffer_travels_from_its_start(traced: bool) -> None:
    field = fields.buffer("v", 2, start=1)
    assert save(State(v=bytearray(b"abcd")), field) == b"bc".hex()
    state = State(v=bytearray(b"1234"))
    held = vars(state)["v"]
    load(state, b"xy".hex(), field, traced=traced)
    assert vars(state)["v"] is held
    assert held == b"1xy4"


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("present", [None, bytearray(2)])
def test_a_buffer_that_does_not_fit_is_refused(present: bytearray | None, traced: bool) -> None:
    with pytest.raises(LoadError, match="does not exist" if present is None else "holds 2 bytes"):
        load(State(v=present), "010203", fields.buffer("v", 3), traced=traced)


def test_a_short_buffer_is_saved_with_zeros_behind() -> None:
    assert save(State(v=bytearray(b"a")), fields.buffer("v", 3)) == "610000"
    assert save(State(v=None), fields.buffer("v", 2)) == "0000"


def vbuffer_fields(**more: object) -> tuple[VMStateField, VMStateField]:
    return fields.int32("n"), fields.vbuffer("v", "n", **more)  # type: ignore[arg-type]


def test_a_vbuffer_has_the_size_its_state_says() -> None:
    assert save(State(n=2, v=bytearray(b"abc")), *vbuffer_fields()) == "000000026162"
    state = State(n=0, v=bytearray(b"123"))
    load(state, "000000026162", *vbuffer_fields())
    assert vars(state)["v"] == b"ab3"


def test_a_vbuffer_may_start_later_and_count_in_units() -> None:
    items = vbuffer_fields(multiply=2, start=1)
    assert items[1].flags & VMSFlags.MULTIPLY
    state = State(n=0, v=bytearray(5))
    load(state, "0000000261626364", *items)
    assert vars(state)["v"] == b"\0abcd"
    assert save(state, *items) == "0000000261626364"


def test_an_allocated_vbuffer_is_made_anew() -> None:
    state = State(n=0, v=None)
    load(state, "000000026162", *vbuffer_fields(alloc=True))
    assert vars(state)["v"] == bytearray(b"ab")


@pytest.mark.parametrize("wire", ["00000004", "7fffffff", "ffffffff", "80000000"])
def test_a_vbuffer_size_outside_its_buffer_is_refused(wire: str) -> None:
    error = refusal(State(n=0, v=bytearray(3)), wire + "00" * 9, *vbuffer_fields())
    assert (error.errno, error.offset, error.expected, error.path) == (EINVAL, 4, 3, ("v",))


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("wire", ["ffffffff", "7fffffff", f"{MAX_ALLOC + 1:08x}"])
def test_no_size_makes_the_loader_allocate_on_its_word(wire: str, profile: Profile) -> None:
    tracemalloc.start()
    try:
        error = refusal(
            State(n=0, v=None), wire + "00" * 9, *vbuffer_fields(alloc=True), profile=profile
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.expected == MAX_ALLOC
    assert peak < MIB


def test_a_size_within_bounds_still_costs_only_what_arrives() -> None:
    tracemalloc.start()
    try:
        error = refusal(
            State(n=0, v=None), f"{MAX_ALLOC:08x}" + "00" * 9, *vbuffer_fields(alloc=True)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (error.expected, error.actual) == (MAX_ALLOC, 9)
    assert peak < MIB


def test_under_the_seed_a_negative_size_loads_nothing() -> None:
    state = State(n=0, v=bytearray(b"12"))
    for make in (fields.int32, fields.uint32):
        f = load(state, "ffffffff61", make("n"), fields.vbuffer("v", "n"), profile=SEED)
        assert f.tell() == 4
        assert vars(state)["v"] == b"12"


def test_saving_a_buffer_of_absurd_size_is_a_save_error() -> None:
    state = State(n=MAX_ALLOC + 1, v=bytearray(3))
    with pytest.raises(SaveError, match=str(MAX_ALLOC)):
        save(state, *vbuffer_fields())
    assert save(State(n=-1, v=bytearray(3)), *vbuffer_fields()) == "ffffffff"


@pytest.mark.parametrize("alloc", [False, True])
def test_no_bytes_are_a_size_too(alloc: bool) -> None:
    state = State(n=5, v=bytearray(b"xy"))
    load(state, "00000000", *vbuffer_fields(alloc=alloc))
    assert vars(state) == {"n": 0, "v": b"" if alloc else b"xy"}
    assert save(state, *vbuffer_fields(alloc=alloc)) == "00000000"


# -- unused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_unused_bytes_are_zeros_that_nobody_reads(traced: bool) -> None:
    items = (fields.unused(3), fields.uint8("v"))
    assert save(State(v=7), *items) == "00000007"
    state = State(v=0)
    load(state, "aabbcc07", *items, traced=traced)
    assert vars(state) == {"v": 7}
    with pytest.raises(LoadError) as caught:
        load(state, "aabb", *items, traced=traced)
    assert caught.value.path == ("unused",)


def test_unused_may_have_a_size_of_its_own() -> None:
    items = (fields.int32("n"), fields.unused_vbuffer("n"), fields.uint8("v"))
    assert save(State(n=2, v=7), *items) == "00000002000007"
    state = State(n=0, v=0)
    load(state, "00000002ffff07", *items)
    assert vars(state)["v"] == 7
    load(state, "0000000008", *items)
    assert vars(state) == {"n": 0, "v": 8}
    assert save(state, *items) == "0000000008"


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_a_negative_unused_size_is_refused(profile: Profile) -> None:
    # C reads 2^64 bytes here and does not look at the stream's error.
    items = (fields.int32("n"), fields.unused_vbuffer("n"))
    error = refusal(State(n=0), "ffffffff0000", *items, profile=profile)
    assert (error.actual, error.offset) == (-1, 4)


# -- bitmaps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "value", "wire"),
    [
        (0, 0, ""),
        (1, 1, "0000000000000001"),
        (64, 1 << 63, "8000000000000000"),
        (65, (1 << 64) | 5, "00000000000000050000000000000001"),
        (130, 1 << 129, "0000000000000000" * 2 + "0000000000000002"),
    ],
)
def test_a_bitmap_travels_in_words_of_64_lowest_first(bits: int, value: int, wire: str) -> None:
    items = (fields.int32("n"), fields.bitmap("v", "n"))
    assert save(State(n=bits, v=value), *items) == f"{bits:08x}" + wire
    state = State(n=0, v=0)
    load(state, f"{bits:08x}" + wire, *items)
    assert vars(state)["v"] == value


@pytest.mark.parametrize("wire", ["00000041", "ffffffff", "7fffffff"])
def test_a_bitmap_larger_than_its_bound_is_refused(wire: str) -> None:
    error = refusal(
        State(n=0, v=0), wire + "00" * 64, fields.int32("n"), fields.bitmap("v", "n", bits_max=64)
    )
    assert (error.expected, error.path) == (64, ("v",))


def test_a_large_bitmap_takes_time_in_proportion() -> None:
    # Shifting each word into place would take some minutes for these words.
    words = 1 << 17
    items = (fields.int32("n"), fields.bitmap("v", "n"))
    state = State(n=64 * words, v=(1 << (64 * words)) - 1)
    wire = save(state, *items)
    load(state, wire, *items)
    assert vars(state)["v"].bit_count() == 64 * words


def test_a_bitmap_is_cut_to_its_words() -> None:
    items = (fields.int32("n"), fields.bitmap("v", "n"))
    assert save(State(n=3, v=(1 << 64) | 5), *items) == "00000003" + "0000000000000005"
