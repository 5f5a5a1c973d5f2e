"""Files that are either whole or not there.

A campaign may be killed, or lose its power, between any two of its writes.  So
whatever must not be lost is written under a temporary name, flushed to the
disk, and renamed; and a corpus entry's name is the digest of its content, so
that a torn one is noticed when it is read.
"""

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.inputs import digest_of

_TEMPORARY: Final = ".tmp-"
"""Prefix of what is not finished; :func:`sweep` removes it."""

_DIGEST_LENGTH: Final = 64
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class CorruptEntryError(InfraError):
    """A corpus file does not have the content its name promises."""


def explain(error: OSError, doing: str) -> InfraError:
    """An operating system error as one that says what to do next.

    Args:
        error: what happened.
        doing: what was being done, such as ``writing events.ndjson``.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _DISK_FULL:
        advice = "make room, or choose a folder on another disk with --out"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        advice = "choose a folder that you may write to with --out"
    elif error.errno in {errno.EMFILE, errno.ENFILE}:
        advice = "raise the limit of open files (ulimit -n)"
    else:
        advice = "check the file system"
    return InfraError(f"{doing} failed: {reason}; {advice}. Findings so far are kept")


def is_unfinished(path: Path) -> bool:
    """Whether somebody is, or was, writing this."""
    return path.name.startswith(_TEMPORARY)


def _temporary_beside(path: Path) -> Path:
    return path.parent / f"{_TEMPORARY}{os.getpid()}-{token_hex(4)}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    with path.open("xb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Make ``path`` hold ``data``, or leave it as it was.

    Args:
        path: in a folder that exists.
        data: its new content.
        durable: wait until the disk has it.

    Raises:
        OSError: as it was; nothing is left behind.
    """
    temporary = _temporary_beside(path)
    try:
        _write(temporary, data, durable=durable)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def write_folder_once(
    path: Path, files: Mapping[str, bytes], *, executable: Collection[str] = ()
) -> bool:
    """Make the folder ``path`` with these files in it, complete and on the disk.

    Args:
        path: of the folder; its parent exists.
        files: content by file name.
        executable: names of those that may be run.

    Returns:
        False when the folder is there already; it is then left alone.

    Raises:
        OSError: nothing is left behind.
    """
    if path.exists():
        return False
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data, durable=True)
            if name in executable:
                mode = stat.S_IMODE((temporary / name).stat().st_mode)
                # By whoever may read it.
                (temporary / name).chmod(mode | (mode & 0o444) >> 2)
        _sync_folder(temporary)
        try:
            temporary.rename(path)
        except OSError as error:
            # Another worker was faster: rename refuses to replace a folder that is not empty.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            shutil.rmtree(temporary)
            return False
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    return True


def sweep(folder: Path, *, older_s: float = 0.0) -> int:
    """Remove what a killed process left unfinished in ``folder``; returns how much.

    Args:
        folder: nobody else writes there, or all who do are done with each file within
            ``older_s``.
        older_s: leave what was changed less than so many seconds ago.
    """
    count = 0
    latest = time.time() - older_s
    for path in folder.glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):  # somebody else sweeps too
            if older_s and path.stat().st_mtime > latest:
                continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        count += 1
    return count


class Corpus:
    """A folder of streams, each in a file named by its SHA-256.

    Adding is idempotent and safe from several processes at once.

    Args:
        folder: it exists.
    """

    __slots__ = ("folder",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, stream: bytes) -> str | None:
        """Keep ``stream``; its digest, or ``None`` when it was there already.

        The disk is not waited for: an entry can be found again, and one that
        power loss tore is noticed by :meth:`read`.

        Raises:
            OSError: the entry is not there.
        """
        digest = digest_of(stream)
        path = self.folder / digest
        if path.exists():
            return None
        write_atomic(path, stream, durable=False)
        return digest

    def digests(self) -> Iterator[str]:
        """Digests of all entries, sorted, so that the order is the same everywhere."""
        for name in sorted(os.listdir(self.folder)):
            if len(name) == _DIGEST_LENGTH and set(name) <= set("0123456789abcdef"):
                yield name

    def read(self, digest: str) -> bytes:
        """The stream of ``digest``.

        Raises:
            CorruptEntryError: the file holds something else.
            OSError: it cannot be read.
        """
        stream = (self.folder / digest).read_bytes()
        if digest_of(stream) != digest:
            raise CorruptEntryError(
                f"{self.folder / digest} does not hold what its name says; delete that file"
            )
        return stream


class DigestFile:
    """A set of streams' digests in a file, such as :func:`outsiders_of`.

    Args:
        path: of the file.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, digests: Iterable[str]) -> None:
        """Further ones.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        all_of_them = sorted({*(self.read() or ()), *digests})
        write_atomic(self._path, "".join(f"{line}\n" for line in all_of_them).encode())

    def read(self) -> frozenset[str] | None:
        """Their digests; ``None`` when nobody has said: then all may be.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            return frozenset(self._path.read_text().split())
        except FileNotFoundError:
            return None


def outsiders_of(campaign: Path) -> DigestFile:
    """Which streams of a corpus came from outside.

    A worker has these judged.  All others were judged where they were made, before they were
    kept; nobody need look at them again.

    Args:
        campaign: its folder.
    """
    return DigestFile(campaign / "outsiders")


def seeds_of(campaign: Path) -> DigestFile:
    """Which streams of a corpus are seeds, made by the target or by people: what is found is
    told apart from these.

    Args:
        campaign: its folder.
    """
    return DigestFile(campaign / "seeds")


LOCK_TRIES: Final = 5
"""Times that a lock is tried; ``loadfuzz status`` holds it for less than a millisecond."""
LOCK_PAUSE_S: Final = 0.02
"""Time between two of them."""


class FolderLock:
    """Only one campaign at a time in a folder; the lock dies with its owner.

    Args:
        path: of the lock file, which stays there empty.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> "FolderLock":
        """Take it.

        Raises:
            UsageError: another process has it.
            OSError: the file cannot be made.
        """
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for patience in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                busy = error.errno in {errno.EAGAIN, errno.EACCES}
                if busy and patience:
                    # Somebody may only be looking whether it is held.
                    time.sleep(LOCK_PAUSE_S)
                    continue
                os.close(self._descriptor)
                self._descriptor = -1
                if not busy:
                    raise
                raise UsageError(
                    f"another campaign is running in {self._path.parent}; wait until it ends, "
                    "or choose another folder with --out"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
