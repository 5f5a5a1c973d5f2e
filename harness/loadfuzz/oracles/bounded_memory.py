"""bounded-memory: a load takes no more memory than its stream can account for.

Sees: a load that ran into the process's limit, and a load whose peak, as Python's
allocator counts it, is beyond a bound that grows with the stream.  So it sees a buffer
that a length alone has bought, though nobody has touched it.  Cannot see: memory of C
code that does not ask Python, or memory that is kept (see no-leak).
Proved by the planted bug ``kinds-label-unbounded``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles.clean_error import place_of

NAME: Final = "bounded-memory"
ALLOWED_BYTES: Final = 16 << 20
"""What any load may take: trees, buffers, a second copy of a machine's state."""
ALLOWED_FACTOR: Final = 256
"""And as much for every byte of the stream: an element of a list that takes two
bytes on the wire becomes an object of some hundred."""


def quick(trial: Trial) -> Violation | None:
    """An alarm when the load ran out of memory."""
    execution = trial.execution
    if execution.kind is not ExitKind.OUT_OF_MEMORY:
        return None
    where = where_of(execution)
    return Violation(
        NAME, f"the load ran out of memory at {where}", _expected(len(trial.input.stream)),
        "it ran into the limit of the process", where,
    )  # fmt: skip


def judge(trial: Trial) -> Violation | None:
    """The same, and an alarm when the peak is beyond what the stream explains."""
    violation = quick(trial)
    if violation is not None or trial.execution.kind is ExitKind.TIMED_OUT:
        return violation
    size = len(trial.input.stream)
    allowed = allowed_bytes(size)
    peak = trial.peak_bytes(allowed)
    if peak <= allowed:
        return None
    where = where_of(trial.execution)
    return Violation(
        NAME, f"a stream of {size} bytes took {peak >> 20} MiB", _expected(size),
        f"{peak} bytes at the peak of the load", where,
    )  # fmt: skip


def allowed_bytes(size: int) -> int:
    """Bytes that a load of a stream of ``size`` bytes may take."""
    return ALLOWED_BYTES + ALLOWED_FACTOR * size


def where_of(execution: Execution) -> str:
    """Where a load ended: the innermost function, or the path of the refusal."""
    if execution.escape is not None:
        return place_of(execution.escape)
    if execution.refusal is not None and execution.refusal.path:
        return "/".join(execution.refusal.path)
    return "load"


def _expected(size: int) -> str:
    return f"at most {allowed_bytes(size)} bytes for a stream of {size}"


BOUNDED_MEMORY: Final = Oracle(
    NAME, judge, Cost.DEAREST, "a load takes no more memory than its stream accounts for", quick
)
