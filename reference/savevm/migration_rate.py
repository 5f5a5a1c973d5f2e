"""How much a migration sends in a period, and what that lets the downtime hold.

Sources: ``migration_update_counters`` and ``migration_rate_limit`` of QEMU
``migration/migration.c``.
"""

from collections.abc import Callable

from savevm.migration_state import NS_PER_MS, MigrationParameters
from savevm.qemufile import QEMUFileWriter


class MigrationRate:
    """Measures a file, period by period.

    Args:
        f: the file, which keeps the rate limit itself.
        parameters: what the operator asks for.
        now_ns: nanoseconds of a clock that never goes back.

    Attributes:
        threshold_size: bytes that can be sent within the downtime limit at the
            bandwidth of the last period; 0 until one is over.
    """

    def __init__(
        self, f: QEMUFileWriter, parameters: MigrationParameters, now_ns: Callable[[], int]
    ) -> None:
        self.threshold_size = 0
        self._file = f
        self._period_ns = parameters.period_ms * NS_PER_MS
        self._downtime_limit_ns = parameters.downtime_limit_ms * NS_PER_MS
        self._now_ns = now_ns
        self._start_ns = 0
        self._start_bytes = 0

    def begin(self) -> None:
        """The first period begins."""
        self._begin_period(self._now_ns())

    def update_counters(self) -> int:
        """See whether the period is over, and begin another one then.

        Returns:
            Nanoseconds until the end of the period that there is now.
        """
        now = self._now_ns()
        if now - self._start_ns >= self._period_ns:
            self._end_period(now)
        return self._start_ns + self._period_ns - now

    def end_period(self) -> None:
        """The period is over, whatever the clock says: one that stands still
        must not hold the migration for ever."""
        self._end_period(self._now_ns())

    def _end_period(self, now: int) -> None:
        spent = now - self._start_ns
        if spent > 0:
            transferred = self._file.tell() - self._start_bytes
            self.threshold_size = transferred * self._downtime_limit_ns // spent
        self._begin_period(now)

    def _begin_period(self, now: int) -> None:
        self._file.reset_rate_limit()
        self._start_ns = now
        self._start_bytes = self._file.tell()
