"""Putting disks back as they were when a command fails on the way.

Theory of operation.  A command that works on several disks remembers each just
before it first changes it, and puts those back if it fails.  Putting back is
work on a disk like any other and may fail too, so every disk is tried, and
those that stay changed are named: in the error, and in :attr:`Undo.left` for
whoever decides whether the guest may run on.

QEMU has no such thing; its commands leave behind what they have done so far.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from savevm.block import BlockCheckpoint, BlockDevice
from savevm.errors import SnapshotError
from savevm.stopped import reason_of


class NotPutBackError(SnapshotError):
    """A command failed, and some disks could not be put back as they were.

    Args:
        failure: why the command failed.
        left: a text for each disk that stays changed.
    """

    def __init__(self, failure: SnapshotError, left: tuple[str, ...]) -> None:
        super().__init__("\n".join((failure.reason, *left)), errno=failure.errno)
        self.left = left


class Undo:
    """What one command has changed.

    Attributes:
        left: a text for each disk that could not be put back.
    """

    def __init__(self) -> None:
        self.left: tuple[str, ...] = ()
        self._before: list[tuple[BlockDevice, BlockCheckpoint]] = []

    def remember(self, device: BlockDevice) -> None:
        """``device`` is about to be changed; a second call does nothing."""
        if not any(known is device for known, _ in self._before):
            self._before.append((device, device.checkpoint()))

    def put_back(self) -> None:
        """Make every remembered disk as it was, as far as that can be done.

        Who is cancelled meanwhile finishes first, and is cancelled then.
        """
        left: list[str] = []
        interrupted: BaseException | None = None
        while self._before:
            device, checkpoint = self._before.pop()
            try:
                try:
                    device.restore(checkpoint)
                except Exception:
                    raise
                except BaseException as interruption:
                    interrupted = interruption
                    device.restore(checkpoint)
            except OSError as error:
                left.append(
                    f"Error while putting back device '{device.name}', which stays as it is: "
                    f"{reason_of(error)}"
                )
        self.left = tuple(left)
        if interrupted is not None:
            raise interrupted


@contextmanager
def all_or_nothing(undo: Undo) -> Iterator[None]:
    """Put the disks back if the block raises.

    Raises:
        NotPutBackError: the block refused and some disks stay changed; its cause
            is that of the refusal.
    """
    try:
        yield
    except BaseException as failure:
        undo.put_back()
        if not undo.left:
            raise
        if isinstance(failure, SnapshotError):
            raise NotPutBackError(failure, undo.left) from failure.__cause__ or failure
        for text in undo.left:
            failure.add_note(text)
        raise
