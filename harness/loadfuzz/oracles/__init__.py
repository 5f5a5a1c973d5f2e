"""What a good loader does, one promise a file.

Each is a pure function of a :class:`~loadfuzz.abc.Trial`.  Every one of them has
planted bugs that fire it (``loadfuzz_targets.planted``) and is silent on the
reference: an alarm nobody has heard ring is not an alarm.
"""

from typing import Final

from loadfuzz.abc import Oracle
from loadfuzz.oracles.atomic import ATOMIC
from loadfuzz.oracles.bounded_memory import BOUNDED_MEMORY
from loadfuzz.oracles.chunking import CHUNKING
from loadfuzz.oracles.clean_error import CLEAN_ERROR
from loadfuzz.oracles.complete import COMPLETE
from loadfuzz.oracles.differential import DIFFERENTIAL
from loadfuzz.oracles.faults import FAULTS
from loadfuzz.oracles.footer import FOOTER
from loadfuzz.oracles.idempotent import IDEMPOTENT
from loadfuzz.oracles.invariants import INVARIANTS
from loadfuzz.oracles.no_false_reject import NO_FALSE_REJECT
from loadfuzz.oracles.no_hang import NO_HANG
from loadfuzz.oracles.no_leak import NO_LEAK
from loadfuzz.oracles.promises import PROMISES
from loadfuzz.oracles.round_trip import ROUND_TRIP
from loadfuzz.oracles.truncation import TRUNCATION

ALL: Final[tuple[Oracle, ...]] = (
    CLEAN_ERROR,
    NO_HANG,
    PROMISES,
    ATOMIC,
    FOOTER,
    COMPLETE,
    ROUND_TRIP,
    NO_FALSE_REJECT,
    INVARIANTS,
    DIFFERENTIAL,
    IDEMPOTENT,
    NO_LEAK,
    TRUNCATION,
    CHUNKING,
    BOUNDED_MEMORY,
)
"""Every built-in oracle that judges a load around which nothing goes wrong, the cheap ones
first."""

UNDER_FAULTS: Final[tuple[Oracle, ...]] = (CLEAN_ERROR, NO_HANG, PROMISES, ATOMIC, FAULTS)
"""Those that judge a load around which something does: the others compare with what the
stream says, and the loader may have seen another one."""

__all__ = [
    "ALL", "ATOMIC", "BOUNDED_MEMORY", "CHUNKING", "CLEAN_ERROR", "COMPLETE", "DIFFERENTIAL",
    "FAULTS", "FOOTER", "IDEMPOTENT", "INVARIANTS", "NO_FALSE_REJECT", "NO_HANG", "NO_LEAK",
    "PROMISES", "ROUND_TRIP", "TRUNCATION", "UNDER_FAULTS",
]  # fmt: skip
