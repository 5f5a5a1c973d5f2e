"""Live migration: a machine moves while its guest runs.

Theory of operation.  The source sends all of its RAM, then in rounds what the
guest has written since, at most so many bytes a period.  When what is left can
be sent within the downtime asked for, the guest is stopped, the rest and the
devices follow, and the source stands still for good; the destination
(:mod:`savevm.migration_incoming`) goes on.  Until the last piece is handed over
the source can go on instead: after a failure or a cancel the guest runs as it
did before, nothing remembers the attempt, and another migration begins anew.

It is plain code: where QEMU's thread sleeps or a send blocks, the caller's
``pause`` and the sink are called, and anything may happen until they return.
What may not, such as another save, is found out and fails the migration.
Time is whatever clock the caller gives.

Source: QEMU ``migration/migration.c``; of its many versions, those without
switches for postcopy, colo and multifd.  Methods keep its names.
"""

from collections.abc import Callable
from errno import ECANCELED, EIO
from os import strerror
from typing import Final

from savevm.errors import SaveError
from savevm.machine import Machine, RunState
from savevm.migratable import migratable_digest
from savevm.migration_channel import MigrationChannel
from savevm.migration_incoming import IncomingMigration
from savevm.migration_rate import MigrationRate
from savevm.migration_state import (
    NS_PER_MS,
    NS_PER_SECOND,
    MigrationParameters,
    MigrationStatus,
)
from savevm.qemufile import QEMUFileWriter, Sink
from savevm.registry import MigrationParams
from savevm.save import (
    qemu_savevm_state_begin,
    qemu_savevm_state_blocked,
    qemu_savevm_state_cancel,
    qemu_savevm_state_complete,
    qemu_savevm_state_header,
    qemu_savevm_state_iterate,
    qemu_savevm_state_pending,
)
from savevm.stopped import bring_to_rest
from savevm.trace import Trace

__all__ = [
    "NS_PER_MS",
    "NS_PER_SECOND",
    "IncomingMigration",
    "MigrationParameters",
    "MigrationStatus",
    "OutgoingMigration",
]

_IN_PROGRESS: Final = "There's a migration process in progress"
_UNREADY: Final = {
    RunState.FINISH_MIGRATE: _IN_PROGRESS,
    RunState.INMIGRATE: "Guest is waiting for an incoming migration",
    RunState.POSTMIGRATE: "Can't migrate the vm that was paused due to previous migration",
}
"""Run states in which no migration may begin (``migrate_prepare``)."""
_UNDER_WAY: Final = frozenset(
    {
        MigrationStatus.NONE,
        MigrationStatus.SETUP,
        MigrationStatus.ACTIVE,
        MigrationStatus.DEVICE,
    }
)


class OutgoingMigration:
    """One attempt to move a machine away; for another make another one.

    Args:
        machine: the source.  One migration of it at a time.
        sink: where the stream goes; it is closed in the end.  One that raises
            says that the stream's end did not arrive.  ``close`` is called
            after the last piece and has the last word: where the destination
            answers (QEMU's return path), it waits for the answer and raises if
            that is a refusal or is lost.
        parameters: what the operator asks for.
        now_ns: nanoseconds of a clock that never goes back.
        pause: waits so many nanoseconds, or less if :meth:`cancel` was called.
        trace: hears the save.

    Attributes:
        status: how far it is.
        error: why it failed; ``""`` unless it did.
        rounds: rounds made.
        downtime_ns: from the stop of the guest to the end of a completed
            migration; else 0.
        stopped_digest: :func:`~savevm.testing.copies.migratable_digest` of the
            machine at the stop, which a destination has to come to; ``None``
            until then.
    """

    def __init__(
        self,
        machine: Machine,
        sink: Sink,
        parameters: MigrationParameters,
        *,
        now_ns: Callable[[], int],
        pause: Callable[[int], None],
        trace: Trace | None = None,
    ) -> None:
        self.machine = machine
        self.parameters = parameters
        self.status = MigrationStatus.NONE
        self.error = ""
        self.rounds = 0
        self.downtime_ns = 0
        self.stopped_digest: str | None = None
        self._now_ns = now_ns
        self._pause = pause
        self._trace = trace
        self._channel = MigrationChannel(sink)
        # Pages are sent one at a time under a limit, so that it is kept to a page.
        self._file = QEMUFileWriter(self._channel, trace=trace, rate_limit=parameters.rate_limit)
        self._rate = MigrationRate(self._file, parameters, now_ns)
        self._used = False
        self._begun = False
        self._old_state: RunState | None = None
        self._ram_save: object = None
        self._steps_at_stop = 0
        self._stop_ns = 0

    @property
    def threshold_size(self) -> int:
        """Bytes that could be sent within the downtime limit at the bandwidth of
        the last period; 0 until one is over."""
        return self._rate.threshold_size

    @property
    def bytes_sent(self) -> int:
        """Bytes that the sink has taken."""
        return self._channel.bytes_sent

    def cancel(self) -> None:
        """Give up, and let the guest run on (``migrate_fd_cancel``).

        The migration notices as soon as ``pause`` or the sink returns, and ends
        as CANCELLED.  Once the last piece is on its way to the destination, and
        after the end, there is nothing to cancel: the call does nothing.  A
        migration that is cancelled before it runs sends nothing.
        """
        if self.status in _UNDER_WAY and not self._channel.committed:
            self.status = MigrationStatus.CANCELLING
            self._channel.shutdown()

    def run(self) -> MigrationStatus:
        """Migrate, from the checks to the end (``qmp_migrate``).

        Returns:
            COMPLETED, FAILED or CANCELLED.

        Raises:
            RuntimeError: it ran before.
            BaseException: whatever ``pause``, the clock, the sink or a handler
                raises, an ``OSError`` of the sink aside.  The guest runs as it
                did before, as after any other failure.
        """
        if self._used:
            raise RuntimeError("a migration runs once: make another one to try again")
        self._used = True
        try:
            if self.status is MigrationStatus.NONE:
                self.migrate_prepare()
                self.migration_thread()
        except SaveError as error:
            self.migrate_set_error(error.reason)
        except BaseException as error:
            self.migrate_set_error(f"{type(error).__name__}: {error}")
            raise
        finally:
            try:
                self.migration_iteration_finish()
            finally:
                self.migrate_fd_cleanup()
        return self.status

    # -- the thread ------------------------------------------------------------------

    def migrate_prepare(self) -> None:
        """Refuse what cannot be migrated.

        Raises:
            SaveError: with QEMU's text.
        """
        machine = self.machine
        reason = _IN_PROGRESS if machine.migration_is_running else _UNREADY.get(machine.runstate)
        reason = reason or qemu_savevm_state_blocked(machine)
        if reason is not None:
            raise SaveError(reason)
        self._begun = machine.migration_is_running = True

    def migration_thread(self) -> None:
        """Setup, rounds, completion.  Returns early when it is cancelled.

        Raises:
            SaveError: it fails.
        """
        f, machine = self._file, self.machine
        self.migrate_set_state(MigrationStatus.SETUP)
        # The bytes of the setup count in the first period.
        self._rate.begin()
        qemu_savevm_state_header(f, machine)
        qemu_savevm_state_begin(f, machine, MigrationParams())
        self._ram_save = self._ram_save_now()
        f.flush()
        self.migrate_set_state(MigrationStatus.ACTIVE)
        while self.migration_is_active():
            self.migration_detect_error()
            if not f.rate_limited() and self.migration_iteration_run():
                break
            self.migration_rate_limit()

    def migration_iteration_run(self) -> bool:
        """Another round, or what is left if that is little.

        Returns:
            Whether that was the completion.

        Raises:
            SaveError: there were too many rounds, or the completion fails.
        """
        asked = self.parameters
        pending = qemu_savevm_state_pending(self._file, self.machine, self.threshold_size)
        if not pending or pending < self.threshold_size:
            self.migration_completion()
            return True
        if self.rounds >= asked.rounds_max:
            raise SaveError(
                f"the migration does not converge: after {self.rounds} rounds {pending} bytes are "
                f"left, and {self.threshold_size} can be sent in {asked.downtime_limit_ms} ms"
            )
        self.rounds += 1
        qemu_savevm_state_iterate(self._file, self.machine)
        # ram_save_iterate of QEMU ends with one: a round shall not wait for the next.
        self._file.flush()
        return False

    def migration_completion(self) -> None:
        """Stop the guest, send the rest, and hand over.

        Raises:
            SaveError: it fails, or is cancelled before the last piece goes out.
        """
        f = self._file
        self.migrate_set_state(MigrationStatus.DEVICE)
        self.migration_stop_vm()
        f.set_rate_limit(0)
        self._channel.keep_last()
        qemu_savevm_state_complete(f, self.machine)
        self._check_file()
        if self.machine.is_running() or self.machine.board.steps != self._steps_at_stop:
            # QEMU's lock keeps the operator out; here what was sent is no longer true.
            raise SaveError("the guest was continued before the migration was complete")
        try:
            self._channel.commit()
        except OSError as error:
            raise SaveError(self._file_error(-(error.errno or EIO))) from error
        failure = f.close()
        if failure and not self.machine.profile.close_errors_ignored:
            raise SaveError(self._file_error(failure), errno=-failure)
        self.downtime_ns = self._now_ns() - self._stop_ns
        self.status = MigrationStatus.COMPLETED

    def migration_stop_vm(self) -> None:
        """Stop the guest, whatever it does, and remember what that was
        (``vm_stop_force_state``).

        Raises:
            SaveError: a disk does not come to rest, and the destination would
                miss what the guest wrote.
        """
        machine = self.machine
        self._old_state = machine.runstate
        self._stop_ns = self._now_ns()
        machine.vm_stop(RunState.FINISH_MIGRATE)
        unrest = bring_to_rest(machine)
        if unrest:
            raise SaveError(str(unrest[0]), errno=unrest[0].error.errno or EIO)
        self._steps_at_stop = machine.board.steps
        self.stopped_digest = migratable_digest(machine)

    # -- looking around ----------------------------------------------------------------

    def migration_is_active(self) -> bool:
        """Whether rounds go on."""
        return self.status is MigrationStatus.ACTIVE

    def migrate_set_state(self, status: MigrationStatus) -> None:
        """Enter ``status``, unless the migration is to be cancelled."""
        if self.status is not MigrationStatus.CANCELLING:
            self.status = status

    def migrate_set_error(self, reason: str) -> None:
        """It has failed because of ``reason``, unless it was to be cancelled."""
        if self.status is not MigrationStatus.CANCELLING:
            self.error = reason
            self.status = MigrationStatus.FAILED

    def migration_detect_error(self) -> None:
        """Find out what makes it useless to go on.

        Raises:
            SaveError: writing failed, or another save came between.
        """
        self._check_file()
        if self._ram_save_now() is not self._ram_save:
            raise SaveError("another save of the machine came between the rounds")

    def _ram_save_now(self) -> object:
        ram = self.machine.ram
        return None if ram is None else ram.outgoing

    def _check_file(self) -> None:
        error = self._file.get_error()
        if error:
            raise SaveError(self._file_error(error), errno=-error)

    def _file_error(self, error: int) -> str:
        failure = self._channel.failure
        text = strerror(-error) if failure is None else failure.strerror or str(failure)
        return f"Error while writing VM state: {text}"

    def migration_rate_limit(self) -> None:
        """Wait for the end of the period if its bytes are used up."""
        f = self._file
        left_ns = self._rate.update_counters()
        if self.migration_is_active() and f.rate_limited() and not f.get_error():
            self._pause(left_ns)
            self._rate.end_period()

    # -- the end -----------------------------------------------------------------------

    def migration_iteration_finish(self) -> None:
        """Leave the machine as the outcome wants it: at rest for good, or as it
        was before the stop.  Whoever changed that since has the last word."""
        machine, old = self.machine, self._old_state
        if self.status is MigrationStatus.COMPLETED:
            machine.board.runstate = RunState.POSTMIGRATE
        elif old is not None and machine.runstate is RunState.FINISH_MIGRATE:
            if old is RunState.RUNNING:
                machine.vm_start()
            else:
                machine.board.runstate = old

    def migrate_fd_cleanup(self) -> None:
        """Forget the attempt: handlers, description, file."""
        try:
            if self._begun:
                self.machine.migration_is_running = False
                if self.status is not MigrationStatus.COMPLETED:
                    self.machine.savevm.described = []
                    qemu_savevm_state_cancel(self.machine, self._trace)
        finally:
            try:
                # What is still buffered stays here.
                self._file.set_error(-ECANCELED)
                self._file.close()
            finally:
                if self.status is MigrationStatus.CANCELLING:
                    self.status = MigrationStatus.CANCELLED
