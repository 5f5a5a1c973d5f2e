"""How to start a program so that it dies with us, quickly.

:mod:`loadfuzz.launch` does it with Python, which takes longer to start than a small QEMU.
Where util-linux's ``setpriv`` is, it and the shell do the same in a tenth of the time: the
kernel is told first, then the shell looks whether the parent is still the one it was.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from typing import Final

from loadfuzz import launch

SHELL: Final = "/bin/sh"
_SCRIPT: Final = (
    f'[ "$PPID" = "$1" ] || exit {launch.ORPHANED}; '
    'ulimit -c 0; [ -z "$2" ] || ulimit -v "$2" || exit; shift 2; exec "$@"'
)


def launched(argv: Sequence[str], address_space: int | None = None) -> list[str]:
    """The command that becomes ``argv`` and is killed when the thread that started it ends.

    Args:
        argv: program, by path, and arguments.
        address_space: bytes it may have, ``None`` for as many as we may.
    """
    parent = str(os.getpid())
    setpriv = _setpriv()
    if setpriv is None:
        limit = [] if address_space is None else [f"{launch.ADDRESS_SPACE}{address_space}"]
        return [sys.executable, "-I", "-S", launch.__file__, *limit, parent, *argv]
    kilobytes = "" if address_space is None else str(address_space >> 10)
    return [
        setpriv, "--pdeathsig", "KILL", SHELL, "-c", _SCRIPT, "sh", parent, kilobytes, *argv
    ]  # fmt: skip


@cache
def _setpriv() -> str | None:
    return shutil.which("setpriv") if os.access(SHELL, os.X_OK) else None
