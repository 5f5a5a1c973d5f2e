"""How to start a program so that it dies with us, quickly.

:mod:`loadfuzz.launch` does it with Python, which takes longer to start than a small QEMU.
Where util-linux's ``setpriv`` is, it and the shell do the same in a tenth of the time: the
kernel is told first, then the shell looks whether the parent is still the one it was.
"""

import os
import resource
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from typing import Final

from loadfuzz import launch

SHELL: Final = "/bin/sh"
_SCRIPT: Final = (
    f'[ "$PPID" = "$1" ] || exit {launch.ORPHANED}; '
    'ulimit -c 0; [ -z "$2" ] || ulimit -v "$2" || exit; '
    '[ -z "$3" ] || { trap "" XFSZ; ulimit -f "$3"; } || exit; shift 3; exec "$@"'
)
_BLOCK_SIZE: Final = 512
"""Bytes that ``ulimit -f`` counts in, in any shell that behaves as POSIX says."""


def launched(
    argv: Sequence[str], address_space: int | None = None, file_size: int | None = None
) -> list[str]:
    """The command that becomes ``argv`` and is killed when the thread that started it ends.

    Args:
        argv: program, by path, and arguments.
        address_space: bytes it may have, ``None`` for as many as we may.
        file_size: bytes that a file of it may grow to, ``None`` for as many as we may; it
            sees its writes fail beyond, and is not killed.

    A stricter hard limit of ours stays what it is.
    """
    parent = str(os.getpid())
    setpriv = _setpriv()
    if setpriv is None:
        limits = [] if address_space is None else [f"{launch.ADDRESS_SPACE}{address_space}"]
        limits += [] if file_size is None else [f"{launch.FILE_SIZE}{file_size}"]
        return [sys.executable, "-I", "-S", launch.__file__, *limits, parent, *argv]
    kilobytes = _limit(resource.RLIMIT_AS, address_space, 1 << 10)
    blocks = _limit(resource.RLIMIT_FSIZE, file_size, _BLOCK_SIZE)
    return [
        setpriv, "--pdeathsig", "KILL", SHELL, "-c", _SCRIPT, "sh", parent, kilobytes, blocks, *argv
    ]  # fmt: skip


def _limit(kind: int, value: int | None, unit: int) -> str:
    """A limit as ``ulimit`` takes it, "" for none.  It may not go above the hard limit, which the
    child has from us; to compare here saves a process that asks ``ulimit -H``."""
    return "" if value is None else str(launch.at_most(kind, value) // unit)


@cache
def _setpriv() -> str | None:
    return shutil.which("setpriv") if os.access(SHELL, os.X_OK) else None
