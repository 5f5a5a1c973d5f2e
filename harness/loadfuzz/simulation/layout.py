"""Where what stands in the byte string of a story, as a tree.

Operators that know of fields then change one number of one attempt, and a report can say which.
"""

from typing import Final

from loadfuzz.simulation.spelling import (
    ACTS,
    ATTEMPT_BYTES,
    ATTEMPTS_MAX,
    FAULTS,
    HEADER_BYTES,
    MAGIC,
    SCHEDULE_AT,
)
from savevm.document import Document, NodeKind, Role
from savevm.document.recorder import TreeRecorder
from savevm.document.store import MemoryStore
from savevm.errors import LoadError

_PAGE_BYTES: Final = 4096
_Field = tuple[str, int]
_HEADER: Final[tuple[_Field, ...]] = (
    ("machine", 1), ("flags", 1), ("guest", 1), ("attempts", 1), ("seed", 2), ("unused", 2),
)  # fmt: skip
_ATTEMPT: Final[tuple[_Field, ...]] = (
    ("bandwidth", 1), ("downtime", 1), ("pipe", 1), ("link", 1), ("flags", 1), ("patience", 1),
)  # fmt: skip
_ACT: Final[tuple[_Field, ...]] = (("deed", 1), ("step", 2))
_FAULT: Final[tuple[_Field, ...]] = (("kind", 1), ("place", 2), ("amount", 1))


def document_of(stream: bytes) -> Document:
    """The tree of any byte string."""
    tree = TreeRecorder(_PAGE_BYTES)
    size = len(stream)
    magic = min(len(MAGIC), size)
    if magic:
        tree.read(Role.MAGIC, 0, magic, int.from_bytes(stream[:magic], "big"))
    at = _struct(tree, stream, "story", _HEADER, len(MAGIC))
    assert at == HEADER_BYTES
    for number in range(1, ATTEMPTS_MAX + 1):
        if at >= size:
            break
        tree.enter(NodeKind.STRUCT, f"attempt {number}", at)
        start = at
        at = _fields(tree, stream, _ATTEMPT, at)
        for act in range(1, ACTS + 1):
            at = _struct(tree, stream, f"act {act}", _ACT, at)
        for fault in range(1, FAULTS + 1):
            at = _struct(tree, stream, f"fault {fault}", _FAULT, at)
        assert at - start == ATTEMPT_BYTES
        tree.leave(min(at, size))
    if size > SCHEDULE_AT:
        tree.enter(NodeKind.FIELD, "schedule", SCHEDULE_AT, "buffer")
        tree.read(Role.FIELD, SCHEDULE_AT, size, stream[SCHEDULE_AT:])
        tree.leave(size)
    # What no loader would refuse and no stream is: who asks whether it is a good one is told.
    tree.problem(LoadError("a story is no stream", offset=size, path=("story",)))
    return Document(MemoryStore(stream), tree.finish(size), tree)


def _struct(
    tree: TreeRecorder, stream: bytes, name: str, fields: tuple[_Field, ...], at: int
) -> int:
    if at >= len(stream):
        return at + sum(size for _, size in fields)
    tree.enter(NodeKind.STRUCT, name, at)
    end = _fields(tree, stream, fields, at)
    tree.leave(min(end, len(stream)))
    return end


def _fields(tree: TreeRecorder, stream: bytes, fields: tuple[_Field, ...], at: int) -> int:
    for name, size in fields:
        value = stream[at : at + size]
        if value:
            end = at + len(value)
            tree.enter(NodeKind.FIELD, name, at, f"uint{8 * size}")
            tree.read(Role.FIELD, at, end, int.from_bytes(value, "big"))
            tree.leave(end)
        at += size
    return at
