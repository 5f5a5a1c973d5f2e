"""How much memory Python takes at the peak of something.

``tracemalloc`` counts what Python asks for, touched or not, so that a buffer of a GiB
that a stream's length has bought is seen although its pages never come to be.  It
slows everything down several times, so it runs only while something is measured.
"""

import tracemalloc
from collections.abc import Callable


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
