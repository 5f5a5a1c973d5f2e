"""Sources and sinks: pieces, files, pipes, suspension, failure."""

import io
import os
import threading
from collections.abc import Generator
from errno import EAGAIN, EBADF, ECONNRESET, EIO, ENOSPC
from pathlib import Path

import pytest

from savevm import SEED, LoadError
from savevm.qemufile import (
    BytesSink,
    ChunkSource,
    FileSink,
    FileSource,
    QEMUFileReader,
    QEMUFileWriter,
    Source,
    SuspendingSource,
)

WAIT_S = 30
"""For a thread that has nothing left to do; only a hang meets it."""


def test_chunks_come_in_order_and_empty_ones_are_passed_over() -> None:
    source = ChunkSource([b"ab", b"", b"cde"])
    assert [bytes(source.read(2)) for _ in range(4)] == [b"ab", b"cd", b"e", b""]


def test_a_closed_chunk_source_has_no_more() -> None:
    source = ChunkSource([b"ab"])
    source.close()
    source.close()
    assert source.read(1) == b""


@pytest.mark.parametrize("sizes", [[], [0], [3, -1]])
def test_chunk_sizes_below_one_are_a_mistake_of_the_caller(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ChunkSource.split(b"abc", sizes)


def test_split_repeats_its_sizes() -> None:
    source = ChunkSource.split(b"abcdef", [1, 2])
    assert [bytes(source.read(9)) for _ in range(5)] == [b"a", b"bc", b"d", b"ef", b""]


def test_a_real_file_is_read_to_its_end_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(bytes(range(256)) * 300)
    file = path.open("rb")
    f = QEMUFileReader(FileSource(file))
    assert f.get_buffer(70_000) == (bytes(range(256)) * 300)[:70_000]
    assert f.get_be16() == 0x7071
    f.skip_bytes(256 * 300 - 70_002)
    with pytest.raises(LoadError):
        f.get_byte()
    assert f.close() == -EIO
    assert file.closed


def test_a_file_without_read1_serves_too() -> None:
    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
            buffer[:1] = b"x"
            return 1

    assert QEMUFileReader(FileSource(Raw())).get_buffer(3) == b"xxx"  # type: ignore[arg-type]


def test_a_pipe_gives_what_it_has_without_waiting_for_more() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as writer:
        f = QEMUFileReader(FileSource(os.fdopen(reading, "rb")))
        values: list[int] = []
        writer.write(b"\0\0\0\x07")
        # Were it to ask for a whole buffer, it would wait for the writer to close.
        thread = threading.Thread(target=lambda: values.append(f.get_be32()), daemon=True)
        thread.start()
        thread.join(WAIT_S)
        assert values == [7]
        f.close()


def test_a_source_that_fails_becomes_a_load_error_with_its_errno() -> None:
    class Failing:
        def __init__(self) -> None:
            self.pieces = [b"abc"]

        def read(self, size: int) -> bytes:
            if self.pieces:
                return self.pieces.pop()
            raise OSError(ECONNRESET, "Connection reset by peer")

        def close(self) -> None:
            raise OSError(EIO, "close")

    f = QEMUFileReader(Failing())
    assert f.get_byte() == ord("a")
    with pytest.raises(LoadError) as caught:
        f.get_be32()
    assert caught.value.errno == ECONNRESET
    assert caught.value.offset == 3
    assert str(caught.value) == "the source failed: Connection reset by peer (offset 0x3)"
    # What had arrived is still there; what failed is not asked again.
    assert f.get_be16() == 0x6263
    with pytest.raises(LoadError, match="needed 1 bytes, 0 available"):
        f.get_byte()
    assert f.close() == -ECONNRESET

    seed = QEMUFileReader(Failing(), profile=SEED)
    assert seed.get_be32() == 0x61626300
    assert seed.get_error() == -ECONNRESET


def test_an_error_without_errno_is_an_io_error() -> None:
    class Failing:
        def read(self, size: int) -> bytes:
            raise OSError("no number")

        def close(self) -> None:
            raise OSError("no number")

    with pytest.raises(LoadError, match="the source failed: no number") as caught:
        QEMUFileReader(Failing()).get_byte()
    assert caught.value.errno == EIO
    assert QEMUFileReader(Failing()).close() == -EIO


def test_a_source_is_closed_once_however_often_the_file_is() -> None:
    closed: list[int] = []
    f = QEMUFileReader(SuspendingSource(lambda size: b"", lambda: closed.append(1)))
    assert [f.close(), f.close()] == [0, 0]
    assert closed == [1]
    silent = SuspendingSource(lambda size: b"")
    silent.close()


def test_a_source_may_reuse_its_buffer() -> None:
    class Reusing:
        def __init__(self, data: bytes) -> None:
            self.data = data
            self.buffer = bytearray(2)

        def read(self, size: int) -> memoryview:
            count = min(2, size, len(self.data))
            self.buffer[:count], self.data = self.data[:count], self.data[count:]
            return memoryview(self.buffer)[:count]

        def close(self) -> None:
            pass

    f = QEMUFileReader(Reusing(b"abcdefgh"))
    assert f.peek_buffer(6) == b"abcdef"
    assert f.get_buffer(8) == b"abcdefgh"


def test_a_source_that_hands_out_more_than_asked_for_loses_nothing() -> None:
    class Generous:
        def __init__(self) -> None:
            self.left = [bytes(100_000)]

        def read(self, size: int) -> bytes:
            return self.left.pop() if self.left else b""

        def close(self) -> None:
            pass

    f = QEMUFileReader(Generous())
    assert f.get_be16() == 0
    assert len(f.get_buffer(99_998)) == 99_998


def test_a_suspending_source_asks_only_when_dry() -> None:
    asked: list[int] = []
    script = iter([b"abc", b"d"])

    def wait(size: int) -> bytes:
        asked.append(size)
        return next(script, b"")

    source = SuspendingSource(wait)
    assert [bytes(source.read(2)) for _ in range(4)] == [b"ab", b"c", b"d", b""]
    assert asked == [2, 2, 2]


def test_a_thread_can_feed_a_suspended_reader() -> None:
    ready = threading.Semaphore(0)
    pieces: list[bytes] = []

    def wait(size: int) -> bytes:
        assert ready.acquire(timeout=WAIT_S)
        return pieces.pop(0)

    f = QEMUFileReader(SuspendingSource(wait))
    values: list[object] = []
    thread = threading.Thread(
        target=lambda: values.extend([f.get_be32(), f.get_counted_string(), f.peek_byte()]),
        daemon=True,
    )
    thread.start()
    for piece in (b"\0\0", b"\0\x05\x03a", b"bc", b""):
        pieces.append(piece)
        ready.release()
    thread.join(WAIT_S)
    assert values == [5, "abc", 0]


def test_a_scripted_step_can_feed_a_suspended_reader() -> None:
    def script() -> Generator[bytes, int, None]:
        yield b""
        yield b"\0"
        yield b"\x2a"

    steps = script()
    next(steps)
    f = QEMUFileReader(SuspendingSource(steps.send))
    assert f.get_be16() == 42


def test_sinks_keep_what_they_are_given(tmp_path: Path) -> None:
    memory = BytesSink()
    file = (tmp_path / "stream").open("wb")
    for sink in (memory, FileSink(file)):
        f = QEMUFileWriter(sink)
        f.put_be32(1)
        f.put_buffer_async(b"page")
        f.put_byte(2)
        assert f.close() == 0
        assert f.tell() == 9
    assert memory.data == b"\0\0\0\x01page\x02"
    assert file.closed
    assert (tmp_path / "stream").read_bytes() == memory.data


def test_a_file_sink_that_is_full_is_an_error_state() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(ENOSPC, "No space left on device")

    f = QEMUFileWriter(FileSink(Full()))
    f.put_byte(1)
    assert f.close() == -ENOSPC


def test_chunk_sources_are_sources() -> None:
    source: Source = ChunkSource([])
    assert source.read(1) == b""


def test_a_closed_file_and_one_that_does_not_wait_are_failing_sources(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"QEVM")
    closed = path.open("rb")
    closed.close()
    with pytest.raises(LoadError) as caught:
        QEMUFileReader(FileSource(closed)).get_be32()
    assert caught.value.errno == EBADF
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with (
        os.fdopen(reading, "rb", buffering=0) as pipe,
        os.fdopen(writing, "wb"),
        pytest.raises(LoadError) as caught,
    ):
        QEMUFileReader(FileSource(pipe)).get_be32()
    assert caught.value.errno == EAGAIN
