"""QEMUFile for reading: values, positions, and the two manners of its end."""

import tracemalloc
from collections.abc import Callable
from errno import EINVAL, EIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm import SEED, STRICT, LoadError, Profile
from savevm.qemufile import ChunkSource, QEMUFileReader

MIB = 1 << 20
ALLOWED_OVERHEAD = MIB
"""A reader holds one buffer of 32 KiB and what has arrived; well below this."""

BUFFERS = [bytes, bytearray, memoryview]


def reader(data: bytes, profile: Profile = STRICT) -> QEMUFileReader:
    return QEMUFileReader(data, profile=profile)


@pytest.mark.parametrize("kind", BUFFERS)
def test_integers_are_big_endian_whatever_holds_the_bytes(
    kind: Callable[[bytes], bytes | bytearray | memoryview],
) -> None:
    f = QEMUFileReader(kind(bytes(range(1, 16))))
    assert f.get_byte() == 0x01
    assert f.get_be16() == 0x0203
    assert f.get_be32() == 0x04050607
    assert f.get_be64() == 0x08090A0B0C0D0E0F
    assert f.tell() == 15


@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_come_as_bytes_of_their_own(
    kind: Callable[[bytes], bytes | bytearray | memoryview],
) -> None:
    held = kind(b"abcdef")
    f = QEMUFileReader(held)
    assert f.peek_buffer(2) == b"ab"
    taken = f.get_buffer(3)
    assert type(taken) is bytes
    assert taken == b"abc"
    assert f.get_byte() == ord("d")


@pytest.mark.parametrize(
    ("wire", "s8", "s16", "s32", "s64"),
    [
        ("00" * 8, 0, 0, 0, 0),
        ("7fffffffffffffff", 127, 0x7FFF, 0x7FFFFFFF, (1 << 63) - 1),
        ("8000000000000000", -128, -0x8000, -0x80000000, -(1 << 63)),
        ("ff" * 8, -1, -1, -1, -1),
    ],
)
def test_signed_integers_are_twos_complement(
    wire: str, s8: int, s16: int, s32: int, s64: int
) -> None:
    data = bytes.fromhex(wire)
    assert reader(data).get_s8() == s8
    assert reader(data).get_sbe16() == s16
    assert reader(data).get_sbe32() == s32
    assert reader(data).get_sbe64() == s64


def test_peeking_consumes_nothing() -> None:
    f = reader(b"\x05\x06\x07")
    assert [f.peek_byte(), f.peek_byte(2), f.peek_byte()] == [5, 7, 5]
    assert f.peek_buffer(2, 1) == b"\x06\x07"
    assert f.tell() == 0


def test_peeking_past_the_end_is_zero_or_short_and_no_error() -> None:
    f = reader(b"\x05")
    assert f.peek_byte(1) == 0
    assert f.peek_buffer(9, 0) == b"\x05"
    assert f.peek_buffer(9, 1) == b""
    assert f.get_error() == 0
    assert f.get_byte() == 5


def test_under_the_seed_peeking_past_the_end_sets_the_error() -> None:
    f = reader(b"", SEED)
    assert f.peek_byte() == 0
    assert f.get_error() == -EIO


READS: list[tuple[str, int, Callable[[QEMUFileReader], object]]] = [
    ("byte", 1, lambda f: f.get_byte("x")),
    ("be16", 2, lambda f: f.get_be16("x")),
    ("be32", 4, lambda f: f.get_be32("x")),
    ("be64", 8, lambda f: f.get_be64("x")),
    ("s8", 1, lambda f: f.get_s8("x")),
    ("sbe16", 2, lambda f: f.get_sbe16("x")),
    ("sbe32", 4, lambda f: f.get_sbe32("x")),
    ("sbe64", 8, lambda f: f.get_sbe64("x")),
    ("buffer", 5, lambda f: f.get_buffer(5, "x")),
    ("skip_bytes", 5, lambda f: f.skip_bytes(5, "x")),
]


@pytest.mark.parametrize(("size", "read"), [r[1:] for r in READS], ids=[r[0] for r in READS])
def test_a_read_past_the_end_is_an_error_at_once(
    size: int, read: Callable[[QEMUFileReader], object]
) -> None:
    for available in range(size):
        f = reader(b"\xff" * (3 + available))
        f.get_buffer(3)
        with pytest.raises(LoadError) as caught:
            read(f)
        assert caught.value.errno == EIO
        assert caught.value.expected == size
        assert caught.value.actual == available
        assert caught.value.reason == f"needed {size} bytes for x, {available} available"
        assert caught.value.offset == 3
        assert f.get_error() == -EIO


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda f: f.get_byte(), 0),
        (lambda f: f.get_be16(), 0),
        (lambda f: f.get_be32(), 0),
        (lambda f: f.get_be64(), 0),
        (lambda f: f.get_buffer(4), b""),
        (lambda f: f.skip_bytes(4), None),
        (lambda f: f.get_counted_string(), None),
    ],
)
def test_under_the_seed_the_end_reads_as_zeros_and_an_error_for_later(
    read: Callable[[QEMUFileReader], object], value: object
) -> None:
    f = reader(b"", SEED)
    assert read(f) == value
    assert f.get_error() == -EIO


def test_under_the_seed_an_integer_cut_in_the_middle_ends_in_zeros() -> None:
    f = reader(b"\x12\x34", SEED)
    assert f.get_be32() == 0x12340000
    assert f.tell() == 2
    assert f.get_error() == -EIO


def test_under_the_seed_a_cut_buffer_is_short() -> None:
    f = reader(b"abc", SEED)
    assert f.get_buffer(5) == b"abc"
    assert f.get_error() == -EIO


def test_the_first_error_stays() -> None:
    f = reader(b"")
    f.set_error(-5)
    f.set_error(-7)
    assert f.get_error() == -5
    assert f.close() == -5


@pytest.mark.parametrize("text", ["", "x", "a" * 255, "a\0b", "\xff\x00\x80"])
def test_counted_strings_keep_every_byte(text: str) -> None:
    data = bytes([len(text)]) + text.encode("latin-1")
    f = reader(data + b"!")
    assert f.get_counted_string() == text
    assert f.tell() == len(data)


@pytest.mark.parametrize("data", [b"", b"\x03", b"\x03ab", b"\xff" * 200])
def test_a_cut_counted_string_is_a_short_read_or_none(data: bytes) -> None:
    with pytest.raises(LoadError) as caught:
        reader(data).get_counted_string("idstr")
    assert caught.value.errno == EIO
    assert "for idstr" in str(caught.value)
    seed = reader(data, SEED)
    assert seed.get_counted_string() is None
    assert seed.get_error() == -EIO


@pytest.mark.parametrize("size", [-1, -(1 << 40)])
@pytest.mark.parametrize("method", ["get_buffer", "skip_bytes", "skip"])
def test_a_negative_size_is_refused(method: str, size: int) -> None:
    f = reader(b"abcd")
    f.get_byte()
    with pytest.raises(LoadError, match="negative size") as caught:
        getattr(f, method)(size)
    assert caught.value.errno == EINVAL
    assert f.tell() == 1


@pytest.mark.parametrize("method", ["get_buffer", "skip_bytes", "skip"])
def test_under_the_seed_a_negative_size_reads_nothing(method: str) -> None:
    f = reader(b"abcd", SEED)
    assert not getattr(f, method)(-5)
    assert (f.tell(), f.get_error()) == (0, 0)


@pytest.mark.parametrize("size", [1 << 32, 1 << 62])
@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["get_buffer", "skip_bytes"])
def test_a_huge_claim_takes_no_memory_on_its_word(
    method: str, chunked: bool, profile: Profile, size: int
) -> None:
    data = bytes(100_000)
    source = ChunkSource.split(data, [4096]) if chunked else data
    f = QEMUFileReader(source, profile=profile)
    tracemalloc.start()
    try:
        if profile is SEED:
            getattr(f, method)(size)
        else:
            with pytest.raises(LoadError) as caught:
                getattr(f, method)(size)
            assert (caught.value.expected, caught.value.actual) == (size, len(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ALLOWED_OVERHEAD
    assert f.get_error() == -EIO


def test_skip_consumes_what_was_peeked_at() -> None:
    f = reader(b"abcd")
    assert f.peek_buffer(2) == b"ab"
    f.skip(2)
    assert f.tell() == 2
    assert f.get_byte() == ord("c")


def test_skip_goes_on_into_what_is_not_buffered_yet() -> None:
    f = QEMUFileReader(ChunkSource([b"ab", b"cd"]))
    f.peek_byte()
    f.skip(3)
    assert f.get_byte() == ord("d")
    with pytest.raises(LoadError):
        f.skip(1)


def test_under_the_seed_skip_does_nothing_unless_all_is_buffered() -> None:
    f = QEMUFileReader(ChunkSource([b"ab", b"cd"]), profile=SEED)
    f.peek_byte()
    f.skip(3)
    assert f.tell() == 0
    f.skip(2)
    assert f.tell() == 2


def test_a_window_shows_what_is_there_and_advance_consumes_it() -> None:
    f = QEMUFileReader(ChunkSource([b"ab", b"cdef"]))
    buffer, start, end = f.window(3)
    assert bytes(buffer[start:end]) == b"abcdef"
    f.advance(5)
    assert f.tell() == 5
    assert f.get_byte() == ord("f")
    buffer, start, end = f.window(1)
    assert start == end


@pytest.mark.parametrize("size", [-1, 7])
def test_advance_beyond_the_window_is_a_mistake_of_the_caller(size: int) -> None:
    f = reader(b"abcdef")
    f.window(6)
    with pytest.raises(ValueError, match="not in the window"):
        f.advance(size)


def test_complaints_of_a_plain_reader_are_errors() -> None:
    with pytest.raises(LoadError, match="no good"):
        reader(b"").complain(LoadError("no good"))


def test_fields_are_traced_only_where_someone_listens() -> None:
    events: list[str] = []
    listening = QEMUFileReader(b"", trace=lambda name, *arguments: events.append(name))
    assert listening.trace_fields
    assert not reader(b"").trace_fields
    quiet = QEMUFileReader(b"", trace=listening.trace, trace_fields=False)
    assert not quiet.trace_fields


# -- every chunking alike ---------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.sampled_from(
            ["get_byte", "get_be16", "get_be32", "get_be64", "get_s8", "get_sbe16", "get_sbe32"]
            + ["get_sbe64", "get_counted_string"]
        ).map(lambda name: (name, ())),
        st.tuples(st.just("get_buffer"), st.tuples(st.integers(-2, 40))),
        st.tuples(st.just("skip_bytes"), st.tuples(st.integers(-2, 40))),
        st.tuples(st.just("peek_byte"), st.tuples(st.integers(0, 9))),
        st.tuples(st.just("peek_buffer"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
    ),
    max_size=12,
)
Step = tuple[str, tuple[int, ...]]


def play(f: QEMUFileReader, steps: list[Step]) -> list[object]:
    heard: list[object] = []
    for name, arguments in steps:
        try:
            heard.append(getattr(f, name)(*arguments))
        except LoadError as error:
            heard.append((str(error), error.errno, error.expected, error.actual))
        heard.append((f.tell(), f.get_error()))
    return heard


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@given(
    data=st.binary(max_size=120),
    steps=STEPS,
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_every_chunking_gives_the_same_values_offsets_and_errors(
    profile: Profile, data: bytes, steps: list[Step], sizes: list[int]
) -> None:
    whole = play(QEMUFileReader(data, profile=profile), steps)
    chunked = QEMUFileReader(ChunkSource.split(data, sizes), profile=profile)
    assert play(chunked, steps) == whole
