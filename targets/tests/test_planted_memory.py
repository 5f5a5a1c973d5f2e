"""C memory: overflows corrupt a neighbour and go on, far ones fault, garbage is garbage."""

from __future__ import annotations

import pytest

from loadfuzz_targets.planted.cmemory import (
    REACH,
    SIZE_MAX,
    Abort,
    Heap,
    SegmentationFault,
)


def test_writing_within_a_block_breaks_nothing() -> None:
    heap = Heap()
    block = heap.alloc(8, "buffer")
    block.write(0, b"12345678")
    assert block.read(0, 8) == b"12345678"
    assert heap.damages() == ()


@pytest.mark.parametrize(("offset", "data"), [(0, b"123456789"), (8, b"x"), (-1, b"x")])
def test_writing_past_an_end_breaks_the_neighbour_and_goes_on(offset: int, data: bytes) -> None:
    heap = Heap()
    block = heap.alloc(8, "buffer")
    block.write(offset, data)
    assert heap.damages() == ("buffer",)
    assert len(block.read(0, 8)) == 8


def test_nothing_written_past_an_end_breaks_nothing() -> None:
    heap = Heap()
    heap.alloc(8, "buffer").write(8, b"")
    assert heap.damages() == ()


@pytest.mark.parametrize("offset", [8 + REACH + 1, -REACH - 1, 1 << 40])
def test_an_address_far_off_faults(offset: int) -> None:
    block = Heap().alloc(8, "buffer")
    with pytest.raises(SegmentationFault, match="of buffer is not mapped"):
        block.read(offset, 1)


def test_what_lies_beyond_a_redzone_holds_no_nul() -> None:
    assert b"\0" not in Heap().alloc(8, "buffer").read(8, 200)


def test_fresh_memory_is_never_the_same_twice() -> None:
    heap = Heap()
    assert heap.garbage(8) != heap.garbage(8)
    assert b"\0" not in heap.garbage(64)


@pytest.mark.parametrize("size", [-1, SIZE_MAX + 1])
def test_a_size_that_cannot_be_had_aborts(size: int) -> None:
    with pytest.raises(Abort, match="failed to allocate"):
        Heap().alloc(size, "buffer")


def test_blocks_are_counted_until_they_are_freed_once() -> None:
    heap = Heap()
    block = heap.alloc(8, "buffer")
    assert heap.live == 1
    block.free()
    assert heap.live == 0
    with pytest.raises(Abort, match="double free"):
        block.free()


def test_a_new_process_has_an_empty_heap_and_other_garbage() -> None:
    heap = Heap()
    heap.alloc(1, "buffer").write(0, b"long")
    before = heap.garbage(8)
    heap.reset()
    assert (heap.live, heap.damages()) == (0, ())
    assert heap.garbage(8) != before
