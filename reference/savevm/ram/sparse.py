"""Memory that takes room only for pages that came and are not zero.

A stream's block list is a claim; the pages behind it are what costs the sender
something.  A block that a stream has named is therefore kept page by page.
"""

from hashlib import blake2b

from savevm.qemufile import Buffer
from savevm.ram.pages import PageMemory


class SparseMemory(PageMemory):
    """Only the pages that are not zero, each on its own."""

    __slots__ = ("_aside", "_contents", "_zero")

    def __init__(self, page_size: int, pages: int) -> None:
        super().__init__(page_size, pages)
        self._zero = bytes(page_size)
        self._contents: dict[int, bytes] = {}
        self._aside: dict[int, bytes] = {}

    def read(self, offset: int, size: int) -> bytes:
        pieces, end = [], offset + size
        while offset < end:
            page = offset // self.page_size
            start = page * self.page_size
            stop = min(end, start + self.page_size)
            pieces.append(self._now(page)[offset - start : stop - start])
            offset = stop
        return b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        done = 0
        while done < len(data):
            page, inside = divmod(offset + done, self.page_size)
            size = min(self.page_size - inside, len(data) - done)
            content = bytearray(self._now(page))
            content[inside : inside + size] = data[done : done + size]
            self._put(page, bytes(content))
            done += size

    def put_pages(self, first: int, count: int, data: memoryview, at: int, stride: int) -> None:
        for page in range(first, first + count):
            self._put(page, bytes(data[at : at + self.page_size]))
            at += stride

    def put_zero_pages(self, first: int, count: int) -> None:
        for page in range(first, first + count):
            self._put(page, self._zero)

    def page_list(self, first: int, count: int) -> list[bytes]:
        return [self._contents.get(page, self._zero) for page in range(first, first + count)]

    def zero_pages(self, first: int, count: int) -> list[int]:
        return [page for page in range(first, first + count) if page not in self._contents]

    def digest(self, size: int) -> bytes:
        hasher = blake2b(digest_size=16)
        for page in sorted(self._contents):
            if page * self.page_size < size:
                hasher.update(page.to_bytes(8, "big") + self._contents[page])
        return hasher.digest()

    def _now(self, page: int) -> bytes:
        aside = self._aside.get(page)
        return self._contents.get(page, self._zero) if aside is None else aside

    def _put(self, page: int, content: bytes) -> None:
        if self._staged:
            # One zero page for all of them; which it is shows when it settles.
            self._aside[page] = self._zero if content == self._zero else content
            return
        self.dirty[page] = 1
        if content == self._zero:
            self._contents.pop(page, None)
        else:
            self._contents[page] = content

    def _settle(self) -> None:
        aside, self._aside = self._aside, {}
        for page, content in aside.items():
            self._put(page, content)

    def _forget(self) -> None:
        self._aside = {}
