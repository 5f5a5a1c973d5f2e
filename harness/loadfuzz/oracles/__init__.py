"""What a good loader does, one promise a file.

Each is a pure function of a :class:`~loadfuzz.abc.Trial`.  Every one of them has
a planted bug that fires it (``loadfuzz_targets.planted``) and is silent on the
reference: an alarm nobody has heard ring is not an alarm.
"""

from typing import Final

from loadfuzz.abc import Oracle
from loadfuzz.oracles.atomic import ATOMIC
from loadfuzz.oracles.chunking import CHUNKING
from loadfuzz.oracles.clean_error import CLEAN_ERROR
from loadfuzz.oracles.footer import FOOTER
from loadfuzz.oracles.no_hang import NO_HANG
from loadfuzz.oracles.round_trip import ROUND_TRIP

ALL: Final[tuple[Oracle, ...]] = (CLEAN_ERROR, NO_HANG, ATOMIC, FOOTER, ROUND_TRIP, CHUNKING)
"""Every built-in oracle, the cheap ones first."""

__all__ = ["ALL", "ATOMIC", "CHUNKING", "CLEAN_ERROR", "FOOTER", "NO_HANG", "ROUND_TRIP"]
