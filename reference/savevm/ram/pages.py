"""The memory behind a RAM block: pages, which of them are dirty, and staging.

Theory of operation.  A load that may have to be taken back is *staged*: its
pages go aside, and reading looks there first, so that a load sees what it has
loaded.  To commit is to make the two one; to roll back is to forget what went
aside.  Three kinds of memory do this, each its own way:

* :class:`DenseMemory`, a machine's own RAM, in one bytearray.  Its shadow is
  kept for the next load, so that loading again and again neither allocates nor
  copies whole blocks.
* :class:`~savevm.ram.sparse.SparseMemory`, for a block that a stream has named: it takes memory
  only for pages that really came and are not zero.
* :class:`NoMemory`, for looking at a stream larger than memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct

from savevm.qemufile import Buffer


class PageMemory(ABC):
    """Pages of one block, and which of them changed since they were last sent.

    Args:
        page_size: bytes of a page.
        pages: how many there are.
        tracked: keep a dirty map (one byte per page).

    Attributes:
        stores: whether contents are kept; if not, all reads as zero.
        dirty: one byte per page, 0 or 1; empty when untracked.
    """

    __slots__ = ("page_size", "pages", "dirty", "_staged", "_touched")
    stores: bool = True

    def __init__(self, page_size: int, pages: int, *, tracked: bool = True) -> None:
        self.page_size = page_size
        self.pages = pages
        self.dirty = bytearray(pages if tracked else 0)
        self._staged = False
        self._touched = False

    # -- contents ------------------------------------------------------------------

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Bytes as they are now, staged ones included."""

    @abstractmethod
    def write(self, offset: int, data: Buffer) -> None:
        """Change bytes; their pages are dirty, at once or when committed."""

    @abstractmethod
    def put_pages(self, first: int, count: int, data: memoryview, at: int, stride: int) -> None:
        """Replace ``count`` pages from ``first`` on by those in ``data``, the
        first at index ``at``, each ``stride`` bytes behind the one before."""

    @abstractmethod
    def put_zero_pages(self, first: int, count: int) -> None:
        """The same with zero pages."""

    @abstractmethod
    def page_list(self, first: int, count: int) -> Sequence[Buffer]:
        """Committed pages, to be copied before anything is written."""

    @abstractmethod
    def zero_pages(self, first: int, count: int) -> list[int]:
        """Numbers of those of ``count`` committed pages from ``first`` on that
        are all zero, in order."""

    @abstractmethod
    def digest(self, size: int) -> bytes:
        """16 bytes that depend on each of the first ``size`` committed bytes."""

    # -- dirty pages -----------------------------------------------------------------

    def dirty_count(self, pages: int) -> int:
        """How many of the first ``pages`` pages are dirty."""
        return self.dirty.count(1, 0, pages)

    def next_dirty(self, start: int, pages: int) -> int:
        """First dirty page from ``start`` on and below ``pages``, or -1."""
        return self.dirty.find(1, start, pages)

    def mark_dirty(self, first: int, count: int) -> None:
        """Mark pages dirty, their contents unchanged."""
        if self.dirty:
            self.dirty[first : first + count] = b"\1" * count

    def mark_clean(self, first: int, count: int) -> None:
        """Pages have been sent."""
        self.dirty[first : first + count] = bytes(count)

    def touch(self) -> None:
        """Mark all pages dirty, at once or when committed: the length changed."""
        if self._staged:
            self._touched = True
        else:
            self.mark_dirty(0, self.pages)

    # -- staging ---------------------------------------------------------------------

    def stage(self) -> None:
        """From now on writes go aside."""
        self._staged = True

    def commit(self) -> None:
        """What went aside becomes the memory; its pages are dirty."""
        self._staged = False
        self._settle()
        if self._touched:
            self._touched = False
            self.touch()

    def rollback(self) -> None:
        """Forget what went aside."""
        self._staged = self._touched = False
        self._forget()

    @abstractmethod
    def _settle(self) -> None:
        """Bring what went aside into the memory."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what went aside."""


class DenseMemory(PageMemory):
    """All pages in one bytearray.

    Theory of operation.  ``_written`` says which pages are in ``_shadow``; it
    is empty until the first write of a staged load.  To commit, the two
    buffers are swapped and the pages that were not written copied over, or
    those that were are copied back, whichever is less.

    Attributes:
        data: the memory.  A commit may put another bytearray here.
    """

    __slots__ = ("data", "_head", "_shadow", "_written", "_zero", "_zeros")

    def __init__(self, page_size: int, pages: int) -> None:
        super().__init__(page_size, pages)
        self.data = bytearray(page_size * pages)
        self._shadow = bytearray()
        self._written = bytearray()
        self._zero = self._zeros = bytes(page_size)
        self._head = Struct(f"=Q{page_size - 8}x")

    def read(self, offset: int, size: int) -> bytes:
        if not self._written:
            return bytes(memoryview(self.data)[offset : offset + size])
        pieces, end = [], offset + size
        while offset < end:
            page = offset // self.page_size
            stop = min(end, (page + 1) * self.page_size)
            where = self._shadow if self._written[page] else self.data
            pieces.append(where[offset:stop])
            offset = stop
        return b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        if not data:
            return
        first = offset // self.page_size
        last = (offset + len(data) - 1) // self.page_size
        if self._staged:
            # What a page keeps must be aside too before the page counts there.
            for page in (first, last):
                start = page * self.page_size
                kept = self.read(start, self.page_size)
                self._target(page, 1)[start : start + self.page_size] = kept
        self._target(first, last - first + 1)[offset : offset + len(data)] = data

    def put_pages(self, first: int, count: int, data: memoryview, at: int, stride: int) -> None:
        size = self.page_size
        with memoryview(self._target(first, count)) as target:
            for offset in range(first * size, (first + count) * size, size):
                target[offset : offset + size] = data[at : at + size]
                at += stride

    def put_zero_pages(self, first: int, count: int) -> None:
        if len(self._zeros) < count * self.page_size:
            self._zeros = bytes(count * self.page_size)
        start, end = first * self.page_size, (first + count) * self.page_size
        with memoryview(self._target(first, count)) as target, memoryview(self._zeros) as zeros:
            target[start:end] = zeros[: end - start]

    def page_list(self, first: int, count: int) -> list[memoryview]:
        size = self.page_size
        view = memoryview(self.data)
        return [view[at : at + size] for at in range(first * size, (first + count) * size, size)]

    def zero_pages(self, first: int, count: int) -> list[int]:
        size, zero, data = self.page_size, self._zero, self.data
        # The first word of each page tells of most that they are not zero.
        with memoryview(data)[first * size : (first + count) * size] as view:
            heads = [word for (word,) in self._head.iter_unpack(view)]
        if 0 not in heads:
            return []
        # startswith compares in place; a slice would copy the page first.
        return [
            first + at
            for at, word in enumerate(heads)
            if not word and data.startswith(zero, (first + at) * size)
        ]

    def digest(self, size: int) -> bytes:
        with memoryview(self.data) as view:
            return blake2b(view[:size], digest_size=16).digest()

    def _target(self, first: int, count: int) -> bytearray:
        # Where these pages are about to be replaced; they count as written now.
        if not self._staged:
            self.dirty[first : first + count] = b"\1" * count
            return self.data
        if not self._written:
            self._written = bytearray(self.pages)
            if not self._shadow:
                self._shadow = bytearray(len(self.data))
        self._written[first : first + count] = b"\1" * count
        return self._shadow

    def _settle(self) -> None:
        written, self._written = self._written, bytearray()
        if not written:
            return
        if 2 * written.count(1) > self.pages:
            self._copy(self.data, self._shadow, _runs(written, 0))
            self.data, self._shadow = self._shadow, self.data
        else:
            self._copy(self._shadow, self.data, _runs(written, 1))
        for first, end in _runs(written, 1):
            self.mark_dirty(first, end - first)

    def _copy(self, source: bytearray, target: bytearray, runs: Iterator[tuple[int, int]]) -> None:
        # Views on both sides: a bytearray copies what it is assigned first.
        with memoryview(source) as old, memoryview(target) as new:
            for first, end in runs:
                start, stop = first * self.page_size, end * self.page_size
                new[start:stop] = old[start:stop]

    def _forget(self) -> None:
        self._written = bytearray()


class NoMemory(PageMemory):
    """Pages that are taken and forgotten."""

    __slots__ = ()
    stores = False

    def __init__(self, page_size: int, pages: int) -> None:
        super().__init__(page_size, pages, tracked=False)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def write(self, offset: int, data: Buffer) -> None:
        """Nothing is kept."""

    def put_pages(self, first: int, count: int, data: memoryview, at: int, stride: int) -> None:
        """Nothing is kept."""

    def put_zero_pages(self, first: int, count: int) -> None:
        """Nothing is kept."""

    def page_list(self, first: int, count: int) -> list[bytes]:
        return [bytes(self.page_size)] * count

    def zero_pages(self, first: int, count: int) -> list[int]:
        return list(range(first, first + count))

    def digest(self, size: int) -> bytes:
        return bytes(16)

    def mark_clean(self, first: int, count: int) -> None:
        """Nothing is tracked."""

    def _settle(self) -> None:
        """Nothing went aside."""

    def _forget(self) -> None:
        """Nothing went aside."""


def _runs(written: bytearray, value: int) -> Iterator[tuple[int, int]]:
    """Runs (first, end) of pages whose byte is ``value``, 0 or 1."""
    end = 0
    while (first := written.find(value, end)) >= 0:
        end = written.find(1 - value, first)
        if end < 0:
            end = len(written)
        yield first, end
