"""How far a migration is, and what was asked of it.

Sources: ``MigrationStatus`` and ``MigrationParameters`` of QEMU
``qapi/migration.json``; the defaults of ``migration/options.c``.  What the seed
calls ``MigrationParams``, and hands to every handler, is
:class:`savevm.registry.MigrationParams`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NS_PER_MS: Final = 1_000_000
NS_PER_SECOND: Final = 1_000_000_000

BUFFER_DELAY_MS: Final = 100
"""A period of the rate limit (``BUFFER_DELAY``; ``XFER_LIMIT_RATIO`` of them
are a second)."""
MAX_BANDWIDTH: Final = 128 << 20
"""Bytes a second unless told otherwise (``MAX_THROTTLE``)."""
DOWNTIME_LIMIT_MS: Final = 300
"""Downtime unless told otherwise (``DEFAULT_MIGRATE_SET_DOWNTIME``)."""
ROUNDS_MAX: Final = 10_000
"""Rounds unless told otherwise: a quarter of an hour at one a period.  QEMU goes
on until someone cancels.  Each is a section, of which a loader reads 65 536."""


class MigrationStatus(StrEnum):
    """QEMU's words for how far a migration is, those that precopy comes to."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    DEVICE = "device"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class MigrationParameters:
    """What the operator asks of an outgoing migration.

    Attributes:
        max_bandwidth: bytes a second, 0 for no limit.
        downtime_limit_ms: how long the guest may stand still, in milliseconds of
            the clock that the migration is given.
        rounds_max: rounds after which a migration that has not converged fails.
        period_ms: milliseconds over which the bandwidth is kept and measured.

    Raises:
        ValueError: a number is below what makes sense.
    """

    max_bandwidth: int = MAX_BANDWIDTH
    downtime_limit_ms: int = DOWNTIME_LIMIT_MS
    rounds_max: int = ROUNDS_MAX
    period_ms: int = BUFFER_DELAY_MS

    def __post_init__(self) -> None:
        for name, least in (
            ("max_bandwidth", 0),
            ("downtime_limit_ms", 0),
            ("rounds_max", 1),
            ("period_ms", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {least} or more")

    @property
    def rate_limit(self) -> int:
        """Bytes a period, 0 for no limit."""
        if not self.max_bandwidth:
            return 0
        return max(self.max_bandwidth * self.period_ms // 1000, 1)
