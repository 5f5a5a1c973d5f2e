"""C memory for bugs that need it: a heap with redzones and uninitialised bytes.

Theory of operation.  A block has its bytes between two redzones.  Writing past its
end does what it does in C: it corrupts the redzone, or memory further away that
is somebody else's, and the program goes on.  Only an address far off faults.  Fresh
memory holds garbage that is different each time.  Nothing here is a State: like
C's heap it is neither captured nor rolled back when a load fails.
"""

from typing import Final

REDZONE: Final = 16
"""Bytes on either side of a block."""
REACH: Final = 1 << 16
"""Bytes around a block that are mapped: further off an access faults."""
SIZE_MAX: Final = 1 << 24
"""Largest block that can be had: beyond it, ``g_malloc`` aborts."""
_REDZONE_BYTE: Final = 0xFA
_GARBAGE_STEP: Final = 0x9E37_79B9_7F4A_7C15


class SegmentationFault(Exception):
    """An access to memory that is not mapped: SIGSEGV."""


class Abort(Exception):
    """The C library or GLib gave up: SIGABRT, or SIGTRAP from ``g_error``."""


class Heap:
    """The heap of one machine.

    Attributes:
        live: blocks that were allocated and not freed.
    """

    __slots__ = ("_broken", "_turn", "live")

    def __init__(self) -> None:
        self.live = 0
        self._broken: set[str] = set()
        self._turn = 0

    def alloc(self, size: int, name: str) -> "Block":
        """A block of uninitialised bytes (``g_malloc``).

        Args:
            size: in bytes; as a ``size_t``, so a negative one is huge.
            name: of what it is for, as damages are reported.

        Raises:
            Abort: that much cannot be had.
        """
        __tracebackhide__ = True
        if not 0 <= size <= SIZE_MAX:
            raise Abort(f"failed to allocate {size & (1 << 64) - 1} bytes")
        self.live += 1
        return Block(self, size, name)

    def garbage(self, size: int) -> bytes:
        """Uninitialised bytes: never the same twice, never zero."""
        self._turn += 1
        pattern = (self._turn * _GARBAGE_STEP & (1 << 64) - 1).to_bytes(8, "big")
        pattern = bytes(byte or 0xA5 for byte in pattern)
        return (pattern * (size // 8 + 1))[:size]

    def broke(self, name: str) -> None:
        """The neighbour of the block of that name was overwritten."""
        self._broken.add(name)

    def damages(self) -> tuple[str, ...]:
        """Names of blocks past whose ends somebody has written."""
        return tuple(sorted(self._broken)) if self._broken else ()

    def reset(self) -> None:
        """A new process: nothing allocated, nothing broken.  Garbage stays garbage."""
        self.live = 0
        self._broken.clear()


class Block:
    """A piece of memory.

    Args:
        heap: it is from.
        size: in bytes.
        name: of what it is for.

    Attributes:
        size, name: as given.
    """

    __slots__ = ("_bytes", "_freed", "_heap", "name", "size")

    def __init__(self, heap: Heap, size: int, name: str) -> None:
        self._heap = heap
        self.size = size
        self.name = name
        self._freed = False
        zone = bytes((_REDZONE_BYTE,)) * REDZONE
        self._bytes = bytearray(zone + heap.garbage(size) + zone)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, whoever's they are.

        Raises:
            SegmentationFault: they are not mapped.
        """
        __tracebackhide__ = True
        self._map(offset, size)
        inside = self._bytes[max(offset + REDZONE, 0) : max(offset + REDZONE + size, 0)]
        # Further away is somebody else's memory: never a NUL when one is looked for.
        return bytes(inside).ljust(size, bytes((_REDZONE_BYTE,)))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` there, whoever's memory that is.

        Raises:
            SegmentationFault: it is not mapped.  What lies before the end of the
                mapping was written nevertheless.
        """
        __tracebackhide__ = True
        size = len(data)
        if size and (offset < 0 or offset + size > self.size):
            self._heap.broke(self.name)
        start, end = max(offset, -REDZONE), min(offset + size, self.size + REDZONE)
        if start < end:
            self._bytes[start + REDZONE : end + REDZONE] = data[start - offset : end - offset]
        self._map(offset, size)

    def free(self) -> None:
        """Give it back.

        Raises:
            Abort: it was given back before.
        """
        __tracebackhide__ = True
        if self._freed:
            raise Abort("free(): double free detected")
        self._freed = True
        self._heap.live -= 1

    def _map(self, offset: int, size: int) -> None:
        __tracebackhide__ = True
        if size < 0 or offset < -REACH or offset + size > self.size + REACH:
            raise SegmentationFault(f"address {offset:#x} of {self.name} is not mapped")
