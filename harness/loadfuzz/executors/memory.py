"""How much memory Python takes at the peak of something.

Theory of operation.  Nearly everything takes less than it may, and that is quickly seen: with
the address space limited to what there is and what may be added, it does not fail.  So a
buffer of a GiB that a stream's length has bought shows although its pages never come to be.
Only what failed so is measured, with ``tracemalloc``, which slows everything down several
times, and on Python before 3.13 never gives back some kB each time it is used
(an hour of asking cost a worker 40 MB).
"""

import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


@contextmanager
def room_for(more: int) -> Iterator[bool]:
    """Let this process's address space grow by no more than ``more`` bytes in a block.

    Memory that Python has already and does not use is not counted: some MiB.

    Yields:
        Whether there is such a limit here; otherwise the block has all the room.
    """
    try:
        size = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or size + more < soft:
            resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
    except (OSError, ValueError):
        yield False
        return
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def peak_bytes_of(call: Callable[[], object]) -> int:
    """Bytes at the peak of ``call``, beyond what was there before.

    Where somebody else is tracing already, their peak is set back.
    """
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start(1)
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if ours:
            tracemalloc.stop()
    return max(peak - before, 0)
