"""The destination of a migration: a machine that waits, loads, and takes over.

Source: ``process_incoming_migration_co`` and ``process_incoming_migration_bh`` of
QEMU ``migration/migration.c``.
"""

from typing import Final

from savevm.announce import SelfAnnounce
from savevm.devices.globalstate import GlobalState
from savevm.errors import LoadError
from savevm.load import qemu_loadvm_state
from savevm.machine import Machine, RunState
from savevm.migration_state import MigrationStatus
from savevm.qemufile import QEMUFileReader, Source
from savevm.trace import Trace

_AT_REST: Final = frozenset(
    {
        RunState.PAUSED,
        RunState.PRELAUNCH,
        RunState.SUSPENDED,
        RunState.SHUTDOWN,
        RunState.POSTMIGRATE,
    }
)
"""What a machine can be in that does not run and that nobody works at."""
_BUSY: Final = frozenset({RunState.RUNNING, RunState.FINISH_MIGRATE})


class IncomingMigration:
    """One stream that a machine waits for (``-incoming``).

    Args:
        machine: the destination.  It must not run.
        autostart: let the guest run when it is loaded; false for ``-S``.
        trace: hears the load.
        trace_fields: it hears every field, too.

    Attributes:
        status: how far it is.
        error: why it failed; ``""`` unless it did.
        load_error: the stream's fault, where that was the reason.
        autostart: may be changed until the stream is loaded, as ``cont`` and
            ``stop`` do it while a machine waits.
        announce: tells the network where the machine is now; its first round is
            sent when the load has succeeded, its clock is the caller's to move.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        autostart: bool = False,
        trace: Trace | None = None,
        trace_fields: bool = True,
    ) -> None:
        self.machine = machine
        self.autostart = autostart
        self.status = MigrationStatus.NONE
        self.error = ""
        self.load_error: LoadError | None = None
        self.announce = SelfAnnounce(machine, trace=trace)
        self._trace = trace
        self._trace_fields = trace_fields

    def run(self, source: Source) -> MigrationStatus:
        """Load the stream and take over.

        After a failure the machine waits for an incoming migration still and
        does not run; under a strict profile it is what it was.

        Args:
            source: where the stream comes from.  It is closed in the end, when
                the outcome is known and the guest runs if it is to run.

        Returns:
            COMPLETED or FAILED.

        Raises:
            RuntimeError: it ran before.
            BaseException: what the source raises, an ``OSError`` aside; the
                machine is as after any other failure.
        """
        if self.status is not MigrationStatus.NONE:
            raise RuntimeError("an incoming migration runs once: make another one")
        machine = self.machine
        f = QEMUFileReader(
            source,
            profile=machine.profile,
            trace=self._trace,
            trace_fields=self._trace_fields,
        )
        try:
            if machine.runstate in _BUSY:
                self.status = MigrationStatus.FAILED
                self.error = f"the machine does not wait for a migration: it is {machine.runstate}"
            else:
                machine.board.runstate = RunState.INMIGRATE
                self.process_incoming_migration_co(f)
        finally:
            # A close that fails after reading says nothing about what was read.
            f.close()
        return self.status

    def process_incoming_migration_co(self, f: QEMUFileReader) -> None:
        """Load, and take over if that succeeds."""
        self.status = MigrationStatus.ACTIVE
        state = self._global_state()
        before = "" if state is None else state.loaded_runstate
        if state is not None:
            # What this stream does not say, an earlier one must not say for it.
            state.loaded_runstate = ""
        try:
            qemu_loadvm_state(f, self.machine)
        except BaseException as error:
            if state is not None:
                state.loaded_runstate = before
            self.machine.board.runstate = RunState.INMIGRATE
            self.status = MigrationStatus.FAILED
            self.error = f"{type(error).__name__}: {error}"
            if not isinstance(error, LoadError):
                raise
            self.load_error = error
            self.error = str(error)
        else:
            self.process_incoming_migration_bh()

    def process_incoming_migration_bh(self) -> None:
        """Take over: the guest runs if it is to run here and ran at the source."""
        machine = self.machine
        self.announce.announce()
        runstate = self.global_state_runstate()
        if runstate is not RunState.RUNNING:
            machine.board.runstate = runstate
        elif self.autostart:
            machine.vm_start()
        else:
            machine.board.runstate = RunState.PAUSED
        self.status = MigrationStatus.COMPLETED

    def global_state_runstate(self) -> RunState:
        """What the source was in, as the stream says (``global_state_get_runstate``).

        A stream that does not say so is from a source that ran.  States that the
        simulated machine does not have, or that it is in only while something is
        done with it, are a guest that does not run.
        """
        state = self._global_state()
        text = state.loaded_runstate if state is not None else ""
        if text in ("", RunState.RUNNING):
            return RunState.RUNNING
        return RunState(text) if text in _AT_REST else RunState.PAUSED

    def _global_state(self) -> GlobalState | None:
        device = self.machine.devices.get(GlobalState.name)
        return device if isinstance(device, GlobalState) else None
