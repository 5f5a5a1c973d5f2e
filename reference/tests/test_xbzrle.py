"""XBZRLE: the facts of QEMU's unit test as data, and what must hold for any page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.ram.xbzrle import (
    DECODE_ERROR,
    ULEB128_SMALL_MAX,
    uleb128_decode_small,
    uleb128_encode_small,
    xbzrle_decode_buffer,
    xbzrle_encode_buffer,
)

PAGE = 4096


def test_every_small_uleb128_comes_back() -> None:
    for number in range(ULEB128_SMALL_MAX + 1):
        encoded = uleb128_encode_small(number)
        assert len(encoded) == (1 if number <= 0x7F else 2)
        assert uleb128_decode_small(encoded) == (len(encoded), number)


@pytest.mark.parametrize("number", [-1, 0x4000])
def test_a_number_of_more_than_14_bits_is_refused(number: int) -> None:
    with pytest.raises(ValueError):
        uleb128_encode_small(number)


@pytest.mark.parametrize("data", [b"\x80\x80", b"\x80", b""], ids=["80 80", "cut", "empty"])
def test_an_invalid_uleb128_is_an_error_and_zero(data: bytes) -> None:
    assert uleb128_decode_small(data) == (DECODE_ERROR, 0)


def test_a_uleb128_is_decoded_where_it_lies() -> None:
    assert uleb128_decode_small(b"\xff\xff\x1f\x00", 1) == (2, 4095)


def test_an_unchanged_page_encodes_to_nothing() -> None:
    page = bytes(range(256)) * 16
    assert xbzrle_encode_buffer(page, page, PAGE) == b""
    assert xbzrle_encode_buffer(bytes(PAGE), bytes(PAGE), PAGE) == b""


def test_one_changed_byte_at_the_end_takes_four_bytes() -> None:
    new = bytes(4095) + b"\x01"
    assert xbzrle_encode_buffer(bytes(PAGE), new, PAGE) == bytes.fromhex("ff1f0101")
    page = bytearray(PAGE)
    assert xbzrle_decode_buffer(bytes.fromhex("ff1f0101"), page) == PAGE
    assert page == new


def test_a_page_whose_every_other_byte_changes_overflows() -> None:
    assert xbzrle_encode_buffer(bytes(PAGE), b"\x01\x00" * (PAGE // 2), PAGE) is None


def test_a_first_run_of_no_unchanged_bytes_is_written() -> None:
    assert xbzrle_encode_buffer(b"\0\0\0\0", b"\x05\0\0\0", 16) == bytes.fromhex("000105")


@pytest.mark.parametrize(
    ("limit", "encoded"),
    [(1, None), (2, None), (3, None), (4, None), (5, "000105")],
    ids=["no zrun", "no nzrun", "no data", "no room for a next run", "fits"],
)
def test_room_is_asked_for_before_each_run_as_in_c(limit: int, encoded: str | None) -> None:
    expected = None if encoded is None else bytes.fromhex(encoded)
    assert xbzrle_encode_buffer(b"\0\0\0\0", b"\x05\0\0\0", limit) == expected


def test_an_encoding_that_ends_with_its_page_needs_no_room_behind() -> None:
    assert xbzrle_encode_buffer(b"\0\0", b"\0\x07", 3) == bytes.fromhex("010107")


def test_pages_of_unequal_or_too_great_length_are_refused() -> None:
    with pytest.raises(ValueError):
        xbzrle_encode_buffer(bytes(8), bytes(9), 16)
    with pytest.raises(ValueError):
        xbzrle_encode_buffer(bytes(0x4000), bytes(0x4000), 0x4000)


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ("01", ""),
        ("00010503", "05"),
        ("000105000106", "05"),
        ("0000", ""),
        ("0001050100", "05"),
        ("80800105", ""),
        ("008080", ""),
        ("090105", ""),
        ("07020506", ""),
        ("00020a", ""),
        ("00010507", "05"),
        ("08", ""),
        ("0001050702", "05"),
    ],
    ids=[
        "one byte where two runs begin",
        "one byte where the second pair begins",
        "zero-length zrun that is not the first",
        "zero-length nzrun",
        "zero-length second nzrun",
        "zrun of more than 14 bits",
        "nzrun of more than 14 bits",
        "zrun past the page",
        "nzrun past the page",
        "nzrun past the data",
        "zrun of the second pair alone",
        "zrun of the whole page alone",
        "second nzrun without data",
    ],
)
def test_what_means_nothing_is_a_decode_error(data: str, kept: str) -> None:
    page = bytearray(8)
    assert xbzrle_decode_buffer(bytes.fromhex(data), page) == DECODE_ERROR
    assert page == bytes.fromhex(kept).ljust(8, b"\0")


def test_no_bytes_decode_to_an_unchanged_page() -> None:
    page = bytearray(b"abc")
    assert xbzrle_decode_buffer(b"", page) == 0
    assert page == b"abc"


@given(
    old=st.binary(min_size=64, max_size=64),
    edits=st.lists(st.tuples(st.integers(0, 63), st.binary(min_size=1, max_size=9)), max_size=9),
    limit=st.integers(2, 80),
)
def test_an_encoding_gives_the_new_page_back(
    old: bytes, edits: list[tuple[int, bytes]], limit: int
) -> None:
    new = bytearray(old)
    for at, data in edits:
        new[at : at + len(data)] = data[: len(new) - at]
    encoded = xbzrle_encode_buffer(old, new, limit)
    if encoded is None:
        return
    assert len(encoded) <= limit
    page = bytearray(old)
    assert xbzrle_decode_buffer(encoded, page) <= len(page)
    assert page == new
    assert (encoded == b"") == (old == bytes(new))


@given(data=st.binary(max_size=40), size=st.integers(1, 40))
def test_decoding_any_bytes_stays_inside_the_page(data: bytes, size: int) -> None:
    page = bytearray(size)
    assert -1 <= xbzrle_decode_buffer(data, page) <= size
    assert len(page) == size
