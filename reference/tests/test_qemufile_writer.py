"""QEMUFile for writing: bytes, positions, rate limit, error state."""

from collections.abc import Callable, Sequence
from errno import EIO, ENOSPC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.constants import IO_BUF_SIZE
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.qemufile.sources import Buffer


class Recording:
    """A sink that notes each call, and fails from a given one on."""

    def __init__(self, fails_from: int = 1 << 30, close_error: OSError | None = None) -> None:
        self.calls: list[tuple[int, bytes]] = []
        self.closed = 0
        self._fails_from = fails_from
        self._close_error = close_error

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        self.calls.append((position, b"".join(pieces)))
        if len(self.calls) > self._fails_from:
            raise OSError(ENOSPC, "No space left on device")

    def close(self) -> None:
        self.closed += 1
        if self._close_error is not None:
            raise self._close_error


def written(write: Callable[[QEMUFileWriter], object]) -> bytes:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    write(f)
    f.flush()
    return bytes(sink.data)


@pytest.mark.parametrize(
    ("write", "wire"),
    [
        (lambda f: f.put_byte(0x1FF), "ff"),
        (lambda f: f.put_be16(0x12345), "2345"),
        (lambda f: f.put_be32(-1), "ffffffff"),
        (lambda f: f.put_be64(-2), "fffffffffffffffe"),
        (lambda f: f.put_be64(1 << 64 | 5), "0000000000000005"),
        (lambda f: f.put_counted_string("a\xff"), "0261ff"),
        (lambda f: f.put_counted_string(""), "00"),
    ],
)
def test_values_are_cut_to_their_width_as_in_c(
    write: Callable[[QEMUFileWriter], object], wire: str
) -> None:
    assert written(write).hex() == wire


def test_a_counted_string_has_at_most_255_bytes() -> None:
    assert len(written(lambda f: f.put_counted_string("x" * 255))) == 256
    with pytest.raises(ValueError, match="255"):
        written(lambda f: f.put_counted_string("x" * 256))


PUTS = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 255)),
    st.tuples(st.just("be16"), st.integers(0, 0xFFFF)),
    st.tuples(st.just("be32"), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("be64"), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("counted_string"), st.text(st.characters(max_codepoint=255), max_size=9)),
    st.tuples(st.just("buffer"), st.binary(max_size=50)),
)


@given(st.lists(PUTS, max_size=30), st.booleans())
def test_what_is_put_can_be_got(puts: list[tuple[str, int | str | bytes]], flush: bool) -> None:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    for name, value in puts:
        getattr(f, f"put_{name}")(value)
        if flush:
            f.flush()
    f.close()
    assert f.tell() == len(sink.data)
    r = QEMUFileReader(bytes(sink.data))
    for name, value in puts:
        got = r.get_buffer(len(value)) if isinstance(value, bytes) else getattr(r, f"get_{name}")()
        assert got == value
    assert r.tell() == len(sink.data)


def test_positions_count_flushed_and_unflushed_bytes() -> None:
    sink = Recording()
    f = QEMUFileWriter(sink)
    f.put_be32(1)
    f.put_buffer_async(b"page")
    f.put_byte(2)
    assert f.tell() == 9
    assert sink.calls == []
    f.flush()
    assert f.tell() == 9
    f.put_byte(3)
    f.flush()
    f.flush()
    assert sink.calls == [(0, b"\0\0\0\x01page\x02"), (9, b"\x03")]


def test_a_full_buffer_goes_to_the_sink_by_itself() -> None:
    for method in ("put_buffer", "put_buffer_async"):
        sink = Recording()
        f = QEMUFileWriter(sink)
        getattr(f, method)(bytes(IO_BUF_SIZE - 1))
        assert sink.calls == []
        getattr(f, method)(b"ab")
        assert [len(data) for _position, data in sink.calls] == [IO_BUF_SIZE + 1]


def test_an_async_buffer_is_read_at_the_flush_and_a_plain_one_at_once() -> None:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    plain, kept = bytearray(b"a"), bytearray(b"b")
    f.put_buffer(plain)
    f.put_buffer_async(kept)
    plain[0], kept[0] = ord("x"), ord("y")
    f.flush()
    assert sink.data == b"ay"


def test_a_failing_sink_sets_the_error_and_later_writes_are_dropped() -> None:
    sink = Recording(fails_from=0)
    f = QEMUFileWriter(sink)
    f.put_byte(1)
    assert f.get_error() == 0
    f.flush()
    assert f.get_error() == -ENOSPC
    f.put_byte(2)
    assert f.close() == -ENOSPC
    assert len(sink.calls) == 1
    assert sink.closed == 1
    assert f.tell() == 2


@pytest.mark.parametrize(
    ("error", "errno"), [(OSError(ENOSPC, "full"), -ENOSPC), (OSError("no number"), -EIO)]
)
def test_a_failing_close_is_an_error_too(error: OSError, errno: int) -> None:
    sink = Recording(close_error=error)
    f = QEMUFileWriter(sink)
    assert [f.close(), f.close()] == [errno, errno]
    assert sink.closed == 1


def test_a_write_error_without_number_is_an_io_error() -> None:
    class Failing(BytesSink):
        def writev(self, pieces: Sequence[Buffer], position: int) -> None:
            raise OSError("no number")

    f = QEMUFileWriter(Failing())
    f.put_byte(1)
    f.flush()
    assert f.get_error() == -EIO


def test_the_first_error_stays() -> None:
    f = QEMUFileWriter(BytesSink())
    f.set_error(-5)
    f.set_error(-7)
    assert f.get_error() == -5


def test_the_rate_limit_counts_a_periods_bytes() -> None:
    f = QEMUFileWriter(BytesSink(), rate_limit=4)
    assert f.get_rate_limit() == 4
    f.put_be32(1)
    assert not f.rate_limited()
    f.put_byte(1)
    assert f.rate_limited()
    f.flush()
    assert f.rate_limited()
    f.reset_rate_limit()
    assert not f.rate_limited()
    f.put_be64(1)
    assert f.rate_limited()
    f.set_rate_limit(0)
    assert not f.rate_limited()
    f.set_rate_limit(1)
    assert f.rate_limited()


def test_a_file_that_failed_is_limited() -> None:
    f = QEMUFileWriter(BytesSink())
    f.set_error(-EIO)
    assert f.rate_limited()
