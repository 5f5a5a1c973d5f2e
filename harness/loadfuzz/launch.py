"""What a child process runs before its real program: it ties its life to ours.

Used as ``python -I -S launch.py [--address-space=BYTES] [--file-size=BYTES] PARENT_PID
PROGRAM ARGUMENT...`` and replaced by the program, whose address space and files are limited
where that is asked for.  A step of its own, because ``preexec_fn`` may deadlock a process that
has threads, and a signal set by the program itself would come too late.
Imports the standard library only, and little of it: it runs once per child.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""From Linux's <sys/prctl.h>."""

ADDRESS_SPACE: Final = "--address-space="
"""Option before the rest: bytes of address space (``RLIMIT_AS``) that the program gets."""
FILE_SIZE: Final = "--file-size="
"""Option behind that: bytes that a file may grow to (``RLIMIT_FSIZE``).  A write beyond fails; the
signal that would kill the program is ignored."""

ORPHANED: Final = 125
"""Exit status when the parent was gone before we were tied to it."""
NO_PROGRAM: Final = 127
"""Exit status when the program cannot be run, as shells use it."""


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel kill this process when the thread that started it ends.

    The setting survives ``exec`` but not ``fork``: a child that starts further
    processes has them call this as well.

    Args:
        parent_pid: process id of the parent.

    Returns:
        False when the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent_pid


def at_most(kind: int, value: int) -> int:
    """A limit of resources, or our hard limit where that is stricter."""
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def main(arguments: list[str]) -> int:
    """Tie ourselves to the parent and become the program."""
    limits: list[tuple[int, int]] = []
    for option, kind in ((ADDRESS_SPACE, resource.RLIMIT_AS), (FILE_SIZE, resource.RLIMIT_FSIZE)):
        if arguments[0].startswith(option):
            limits.append((kind, int(arguments[0].removeprefix(option))))
            arguments = arguments[1:]
    if not die_with_parent(int(arguments[0])):
        return ORPHANED
    # A fuzzer crashes its children by the thousand; their core files would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for kind, value in limits:
        value = at_most(kind, value)
        resource.setrlimit(kind, (value, value))
        if kind == resource.RLIMIT_FSIZE:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        os.execvp(arguments[1], arguments[1:])
    except OSError as error:
        print(f"cannot run {arguments[1]}: {error.strerror}", file=sys.stderr)
    return NO_PROGRAM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
