"""Device state as plain objects: capture, restore, compare and digest it.

A device's migratable state lives in attributes of a :class:`State`.  What a
State refers to and owns is itself a State, a list, a dict, a bytearray or an
immutable value; anything else (a machine, a bus, a callback) is outside and is
neither captured nor digested.  That one rule gives transactions (a failed load
leaves everything as it was), digests, and comparison that names what differs.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Final

_ATOMS: Final = frozenset({int, bool, float, str, bytes, type(None)})


class State:
    """A bag of attributes that belong to a device and travel with it."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"


class Capture:
    """The state that was reachable from some objects at one moment.

    Object identity is kept: :meth:`restore` writes the old contents back into
    the very same containers, so that references between devices stay good.

    Args:
        roots: the objects to capture; more can be added later with
            :meth:`add`, each once.
    """

    __slots__ = ("_seen", "_undo")

    def __init__(self, *roots: object) -> None:
        self._undo: list[tuple[object, object]] = []
        self._seen: set[int] = set()
        for root in roots:
            self.add(root)

    def add(self, root: object) -> None:
        """Capture ``root`` as it is now, unless it was captured before."""
        stack = [root]
        seen, undo = self._seen, self._undo
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            if isinstance(item, State):
                seen.add(id(item))
                attributes = item.__dict__
                undo.append((item, attributes.copy()))
                stack.extend([v for v in attributes.values() if type(v) not in _ATOMS])
            elif isinstance(item, list):
                seen.add(id(item))
                undo.append((item, item.copy()))
                stack.extend([v for v in item if type(v) not in _ATOMS])
            elif isinstance(item, dict):
                seen.add(id(item))
                undo.append((item, item.copy()))
                stack.extend([v for v in item.values() if type(v) not in _ATOMS])
            elif isinstance(item, bytearray):
                seen.add(id(item))
                undo.append((item, bytes(item)))

    def restore(self) -> None:
        """Put everything back as it was when it was captured."""
        for item, saved in self._undo:
            if isinstance(item, State):
                assert isinstance(saved, dict)
                item.__dict__.clear()
                item.__dict__.update(saved)
            elif isinstance(item, dict):
                assert isinstance(saved, dict)
                item.clear()
                item.update(saved)
            elif isinstance(item, list):
                assert isinstance(saved, list)
                item[:] = saved
            else:
                assert isinstance(item, bytearray)
                assert isinstance(saved, bytes)
                item[:] = saved

    def changed(self) -> bool:
        """Whether anything captured is no longer as it was."""
        for item, saved in self._undo:
            now = item.__dict__ if isinstance(item, State) else item
            if not _shallow_equal(now, saved):
                return True
        return False


def _shallow_equal(now: object, saved: object) -> bool:
    # Nested containers are captured on their own: here their identity counts,
    # and == must not descend into them.
    if isinstance(now, dict):
        assert isinstance(saved, dict)
        return now.keys() == saved.keys() and all(
            now[key] is value or (type(value) in _ATOMS and now[key] == value)
            for key, value in saved.items()
        )
    if isinstance(now, list):
        assert isinstance(saved, list)
        return len(now) == len(saved) and all(
            a is b or (type(b) in _ATOMS and a == b) for a, b in zip(now, saved, strict=True)
        )
    return now == saved


def walk(root: object, path: str = "") -> Iterator[tuple[str, int | float | str | bytes | None]]:
    """Yield every leaf of a state as (path, value), in a fixed order.

    >>> list(walk(State(b=2, a=[1, bytearray(b"x")])))
    [('a[0]', 1), ('a[1]', b'x'), ('b', 2)]

    Raises:
        ValueError: a state contains itself: there is no last leaf.
    """
    stack: list[tuple[str, object, int]] = [(path, root, 0)]
    above: list[object] = []
    while stack:
        where, item, depth = stack.pop()
        if isinstance(item, (State, dict, list)):
            del above[depth:]
            if any(item is container for container in above):
                raise ValueError(f"the state contains itself at {where}")
            above.append(item)
        if isinstance(item, State):
            inner = sorted(item.__dict__.items(), reverse=True)
            below = depth + 1
            stack.extend((f"{where}.{name}" if where else name, v, below) for name, v in inner)
        elif isinstance(item, dict):
            pairs = sorted(((str(key), v) for key, v in item.items()), reverse=True)
            stack.extend((f"{where}{{{key}}}", v, depth + 1) for key, v in pairs)
        elif isinstance(item, list):
            last = len(item) - 1
            stack.extend((f"{where}[{i}]", item[i], depth + 1) for i in range(last, -1, -1))
        elif isinstance(item, bytearray):
            yield where, bytes(item)
        elif item is None or isinstance(item, (int, float, str, bytes)):
            yield where, item


def digest(*roots: object) -> str:
    """Hex digest of all leaves of ``roots``: equal states, equal digests."""
    hasher = blake2b(digest_size=16)
    for number, root in enumerate(roots):
        for path, value in walk(root, str(number)):
            hasher.update(f"{path}={type(value).__name__}:".encode())
            hasher.update(value if isinstance(value, bytes) else repr(value).encode())
            hasher.update(b"\n")
    return hasher.hexdigest()


def differences(
    before: Mapping[str, object], after: Mapping[str, object], limit: int = 8
) -> list[str]:
    """Name up to ``limit`` leaves that differ between two ``dict(walk(...))``."""
    found: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path, "absent"), after.get(path, "absent")
        if old != new:
            found.append(f"{path}: {old!r} -> {new!r}"[:200])
            if len(found) == limit:
                break
    return found
