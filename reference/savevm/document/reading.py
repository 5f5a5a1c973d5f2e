"""A QEMUFile that reports every read to a recorder and can start over elsewhere.

It decodes nothing itself: every getter is QEMUFileReader's, with a note of what
it consumed.
"""

from savevm.document.recorder import TreeRecorder
from savevm.document.store import MemoryStore, Store, StoreSource
from savevm.errors import LoadError
from savevm.profile import STRICT
from savevm.qemufile import QEMUFileReader


class RecordingReader(QEMUFileReader):
    """Reads a store and tells ``tree`` what every byte was read as.

    Args:
        store: the stream.
        tree: hears of every read, structure and problem.
    """

    recorder: TreeRecorder

    def __init__(self, store: Store, tree: TreeRecorder) -> None:
        self._store_source = None if isinstance(store, MemoryStore) else StoreSource(store)
        source = store.data if isinstance(store, MemoryStore) else self._store_source
        assert source is not None
        # Strict, whatever the machine's manners: the end of the stream must be
        # told from zeros, and only a strict reader says so at once.
        super().__init__(source, profile=STRICT)
        self.recorder = tree
        self._muted = False

    def complain(self, error: LoadError) -> None:
        """Note a fault of a value; the layout behind it is known, so go on."""
        if error.offset is None:
            error.offset = self.tell()
        self.recorder.problem(error.within(*self.recorder.open_names()))

    def seek(self, offset: int) -> None:
        """Go on at ``offset``, forgetting that there was an error."""
        self._error = 0
        if self._store_source is None:
            self._pos = min(offset, self._end)
        elif self._base <= offset <= self._base + self._end:
            self._pos = offset - self._base
        else:
            self._store_source.position = offset
            self._buf = b""
            self._pos = self._end = 0
            self._base = offset

    # -- getters, with a note -----------------------------------------------------------

    def get_byte(self, what: str = "") -> int:
        start = self._base + self._pos
        value = super().get_byte(what)
        if not self._muted:
            self.recorder.read(what, start, start + 1, value)
        return value

    def get_be16(self, what: str = "") -> int:
        start = self._base + self._pos
        value = super().get_be16(what)
        self.recorder.read(what, start, start + 2, value)
        return value

    def get_be32(self, what: str = "") -> int:
        start = self._base + self._pos
        value = super().get_be32(what)
        self.recorder.read(what, start, start + 4, value)
        return value

    def get_be64(self, what: str = "") -> int:
        start = self._base + self._pos
        value = super().get_be64(what)
        self.recorder.read(what, start, start + 8, value)
        return value

    def get_buffer(self, size: int, what: str = "") -> bytes:
        start = self._base + self._pos
        value = super().get_buffer(size, what)
        if not self._muted and value:
            self.recorder.read(what, start, start + len(value), value)
        return value

    def skip_bytes(self, size: int, what: str = "") -> None:
        start = self._base + self._pos
        super().skip_bytes(size, what)
        if size > 0:
            self.recorder.read(what, start, start + size, None)

    def get_counted_string(self, what: str = "") -> str | None:
        start = self._base + self._pos
        self._muted = True
        try:
            value = super().get_counted_string(what)
        finally:
            self._muted = False
        if value is not None:
            self.recorder.read(what, start, start + 1 + len(value), value)
        return value
