"""Seeds that people name: which can be used, and what is wrong with the others.

A bad seed is named and set aside; it never stops a campaign that has a good
one.  Nothing here runs the target: see :mod:`loadfuzz.campaign.prepare`.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz.errors import UsageError
from loadfuzz.inputs import STREAM_SIZE_MAX, Seed
from loadfuzz.wording import printable
from savevm.constants import QEMU_VM_FILE_MAGIC

SEED_FILES_MAX: Final = 100_000
"""Files read from one directory; a corpus larger than this is distilled first."""

_MAGIC: Final = QEMU_VM_FILE_MAGIC.to_bytes(4, "big")
_SPECIAL: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


@dataclass(frozen=True, slots=True)
class BadSeed:
    """A seed that cannot be used.

    Attributes:
        name: the path as it was given.
        reason: what is wrong and, where something helps, what to do.
    """

    name: str
    reason: str


def read_seeds(paths: Iterable[Path]) -> Iterator[Seed | BadSeed]:
    """Every seed that ``paths`` lead to, in a stable order, each good or bad.

    Args:
        paths: files, and directories whose files are read, not recursively.
    """
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            yield BadSeed(_name_of(path), _os_reason(error))
            continue
        if is_folder:
            yield from _read_folder(path)
        else:
            yield read_seed(path)


def good_seeds(paths: Iterable[Path]) -> list[Seed]:
    """Every seed that ``paths`` lead to, where a bad one is a mistake of who named it.

    Raises:
        UsageError: one cannot be used; says which, and why.
    """
    found: list[Seed] = []
    for item in read_seeds(paths):
        if isinstance(item, BadSeed):
            raise UsageError(f"{item.name} {item.reason}")
        found.append(item)
    return found


def read_seed(path: Path) -> Seed | BadSeed:
    """The seed in one file, or why there is none."""
    found = read_regular(path, STREAM_SIZE_MAX)
    if isinstance(found, BadSeed):
        return found
    stream, size = found
    problem = check_stream(stream, size)
    if problem is not None:
        return BadSeed(_name_of(path), problem)
    return Seed(printable(path.name), stream, _name_of(path))


def read_regular(path: Path, size_max: int) -> tuple[bytes, int] | BadSeed:
    """The first ``size_max`` + 1 bytes of a file and its size, or why it cannot be read."""
    name = _name_of(path)
    try:
        # Opening a named pipe would otherwise wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return BadSeed(name, _os_reason(error))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            return BadSeed(name, f"is {_kind_of(mode)}, not a file")
        with open(descriptor, "rb", closefd=False) as file:
            stream = file.read(size_max + 1)
        return stream, max(os.fstat(descriptor).st_size, len(stream))
    except OSError as error:
        return BadSeed(name, _os_reason(error))
    finally:
        os.close(descriptor)


def check_stream(stream: bytes, size: int) -> str | None:
    """What keeps ``stream`` from being a seed, ``None`` when nothing does.

    Args:
        stream: its first :data:`STREAM_SIZE_MAX` + 1 bytes at least.
        size: of all of it, in bytes.
    """
    if size == 0:
        return "is empty"
    if stream[:4] != _MAGIC:
        return f"is no stream: it starts with {stream[:4].hex(' ')}, not {_MAGIC.hex(' ')} ('QEVM')"
    if size > STREAM_SIZE_MAX:
        return (
            f"has {size:,} bytes, more than the {STREAM_SIZE_MAX:,} that are mutated; take it "
            "again from a guest with less RAM in use (loadfuzz seeds capture leaves RAM empty)"
        )
    return None


def _read_folder(folder: Path) -> Iterator[Seed | BadSeed]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield BadSeed(_name_of(folder), _os_reason(error))
        return
    if not names:
        yield BadSeed(_name_of(folder), "is an empty directory")
    for name in names[:SEED_FILES_MAX]:
        path = folder / name
        if path.is_dir():
            yield BadSeed(_name_of(path), "is a directory inside a directory; name it itself")
        else:
            yield read_seed(path)
    if len(names) > SEED_FILES_MAX:
        yield BadSeed(
            str(folder), f"has {len(names):,} files; only the first {SEED_FILES_MAX:,} were read"
        )


def _name_of(path: Path) -> str:
    # A file name may be any bytes; events are UTF-8.
    return printable(str(path))


def _os_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read; check its permissions"
    if error.errno == errno.ENXIO:  # what opening a socket gives
        return "is a socket, not a file"
    return f"cannot be read: {error.strerror}"


def _kind_of(mode: int) -> str:
    return next((kind for test, kind in _SPECIAL if test(mode)), "something special")
