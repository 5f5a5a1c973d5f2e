"""Folders that have a name for a moment only: until a QEMU has opened what is in them.

In that moment their owner may be killed.  So each is locked by its owner, the lock dies
with it, and whoever makes the next one removes those that nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError

PREFIX: Final = "loadfuzz-qemu-"
_OWNER: Final = "owner"
SWEPT_MAX: Final = 64
"""Folders looked at by one sweep; the next one goes on."""


class BriefFolder:
    """A folder of ours, locked.

    Args:
        base: where it is made.

    Attributes:
        path: of it.

    Raises:
        InfraError: it cannot be made.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, base: Path) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._lock = os.open(self.path / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise InfraError(
                f"no folder can be made in {base}: {error.strerror}; make room there"
            ) from error

    def remove(self) -> None:
        """Remove it with all that is in it; again does nothing."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def sweep(base: Path) -> int:
    """Remove folders in ``base`` whose owners are gone; returns how many."""
    count = 0
    with suppress(OSError):
        for path in sorted(base.glob(f"{PREFIX}*"))[:SWEPT_MAX]:
            count += _sweep_one(path)
    return count


def _sweep_one(path: Path) -> bool:
    try:
        lock = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # just being made, or somebody else's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(lock)
