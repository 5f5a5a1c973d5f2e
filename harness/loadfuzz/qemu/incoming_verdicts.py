"""What came of an ``-incoming``: from the exit status, and from what QEMU printed.

A QEMU that refuses its stream says why on stderr, a line for each level, and exits with
status 1 (``process_incoming_migration_co`` in migration/migration.c).  The monitor prints the
same lines over ``loadvm``, only the last one differs; so they are brought to that form and
judged by :mod:`.verdicts`: the same stream then has the same refusal both ways.
"""

import errno
import os
import re
from typing import Final

from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.qemu.process import Ending
from loadfuzz.qemu.verdicts import Judged, judge_death, judge_reply

REFUSED: Final = 1
"""``EXIT_FAILURE``, with which QEMU ends over a stream it refuses."""
LINES_MAX: Final = 64
"""Lines that are looked at, from the end: as many as of a reply."""

_FAILED: Final = re.compile(r"load of migration failed: (?P<why>[^:]*)(?:: (?P<more>.*))?$")
"""The last line; newer releases say the first error again behind it."""
_PROGRAM: Final = re.compile(r"^(?:\d{4}-\S+Z )?(?:\S*/)?qemu[\w.-]*: ")
"""What ``error_report`` puts before a line (util/error-report.c)."""
_ASIDE: Final = ("warning: ", "info: ")
"""Lines that refuse nothing (``warn_report``, ``info_report``)."""
_SANITIZER: Final = re.compile(r"\w+Sanitizer\b|runtime error: ")
"""A sanitizer's last words: it, too, ends a process with status 1."""


def judge_end(ending: Ending, doing: str = "") -> Execution:
    """What the end of a QEMU that was given a stream means; never an acceptance.

    Args:
        ending: of the process.
        doing: what it was told to do, "" for the load itself: only that can be refused.

    Raises:
        InfraError: somebody else ended it.
    """
    death = judge_death(ending, doing)
    refused = (
        ending.returncode == REFUSED
        and not doing
        and death.kind is ExitKind.CRASHED
        and not death.escape.frames
        and not _SANITIZER.search(ending.said)
    )
    if refused:
        judged = judge_refusal(ending.said)
        return Execution(ExitKind.REJECTED, judged.depth, refusal=judged.refusal)
    depth = Depth.ACCEPTED if doing else Depth.FIRST_SECTION
    return Execution(death.kind, depth, escape=death.escape)


def judge_refusal(printed: str) -> Judged:
    """The refusal in what QEMU printed, with error number and path where it gives them; a
    device that ends QEMU by itself gives none."""
    lines = _lines(printed)
    number = errno.EINVAL
    kept: list[str] = []
    for line in lines:
        failed = _FAILED.search(line)
        if failed is None:
            if not line.startswith(_ASIDE):
                kept.append(line)
            continue
        number = number_of(failed["why"])
        if failed["more"] and not kept:
            kept.append(failed["more"])
    return judge_reply("\n".join((*kept, f"Error -{number} while loading VM state")))


def mumbled(printed: str) -> tuple[str, ...]:
    """What QEMU printed over a stream that it accepted, for the events."""
    return judge_reply("\n".join(_lines(printed))).said


def number_of(words: str) -> int:
    """The error number that C calls ``words``; EINVAL if there is none.

    >>> number_of("Input/output error")
    5
    """
    for number in errno.errorcode:
        if os.strerror(number) == words.strip():
            return number
    return errno.EINVAL


def _lines(printed: str) -> list[str]:
    lines = [_PROGRAM.sub("", line.strip()) for line in printed.splitlines()]
    return [line for line in lines if line][-LINES_MAX:]
