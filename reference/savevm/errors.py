"""Errors by whose fault they are.

::

    SavevmError
    ├── LoadError       the stream is bad (or its source failed)
    ├── SaveError       the machine or the sink did not let a save finish
    └── SnapshotError   savevm/loadvm/delvm refused or failed, with QEMU's text

``LoadError`` carries data, not just text, and formats itself; code decides by
its attributes and never by parsing the message.
"""

from errno import EINVAL


class SavevmError(Exception):
    """Root of everything this package raises on purpose."""


class LoadError(SavevmError):
    """The one exception that may leave a load.

    Args:
        reason: what is wrong, in a phrase ("expected section id 0x4, read 0x9").
        errno: positive errno that QEMU returns negated for this case.
        offset: byte offset in the stream where the offending value begins, or
            ``None`` when the source has no position (a hook of a device that
            did not say).
        path: where in the stream, outermost first: section, then device,
            struct, field or subsection names.
        expected: the value or bound that would have been right.
        actual: the value that was read.
        qemu: the text that QEMU itself prints in this case, where it has one.

    >>> print(LoadError("expected section id 0x4, read 0x9", offset=0x1F3,
    ...                 path=("timer", "footer")))
    timer: footer: expected section id 0x4, read 0x9 (offset 0x1f3)
    """

    def __init__(
        self,
        reason: str,
        *,
        errno: int = EINVAL,
        offset: int | None = None,
        path: tuple[str, ...] = (),
        expected: object = None,
        actual: object = None,
        qemu: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errno = errno
        self.offset = offset
        self.path = path
        self.expected = expected
        self.actual = actual
        self.qemu = qemu

    def within(self, *names: str) -> "LoadError":
        """Prefix the path with the places this error passes on its way out."""
        self.path = (*names, *self.path)
        return self

    def __str__(self) -> str:
        where = "" if self.offset is None else f" (offset {self.offset:#x})"
        return ": ".join((*self.path, self.reason)) + where


class SaveError(SavevmError):
    """A save could not finish: a handler refused, the sink failed, a device blocks.

    Args:
        reason: QEMU's message for the case where it has one.
        errno: positive errno.
    """

    def __init__(self, reason: str, *, errno: int = EINVAL) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errno = errno


class SnapshotError(SavevmError):
    """savevm, loadvm, delvm or info snapshots refused or failed.

    Args:
        reason: the text QEMU's monitor prints.
        errno: positive errno.
    """

    def __init__(self, reason: str, *, errno: int = EINVAL) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errno = errno
