"""Bugs planted in a migration: one for each thing that the simulation has to find.

``migration:NAME`` is the target with the bug of that name.  They are subclasses of the two
sides and replaced handlers; the reference has no switch for any of them.  Each is what some
code did or may well do, and none shows in a migration to which nothing happens.
"""

import dataclasses
from collections.abc import Callable
from errno import EIO
from typing import Final

from loadfuzz.simulation.machines import Parts
from loadfuzz.simulation.promises import (
    DOWNTIME,
    ENDS,
    NOTHING_LEFT,
    ONE_RUNNER,
    RETRY,
    SAME_STATE,
    UNHARMED,
)
from savevm.machine import Machine
from savevm.migration import IncomingMigration, MigrationStatus, OutgoingMigration
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.qemufile.sources import Source
from savevm.ram.blocks import RAMBlock
from savevm.ram.items import RAMFlag
from savevm.ram.load import RAMLoader
from savevm.ram.save import ram_save_complete, ram_save_setup
from savevm.ram.state import RAMState
from savevm.state import Capture
from savevm.vmstate.description import Opaque


@dataclasses.dataclass(frozen=True, slots=True)
class MigrationBug:
    """One bug.

    Attributes:
        name: on the command line as ``migration:NAME``.
        what: in a line.
        promise: which promise it breaks.
        evidence: what the alarm's path is, or begins with.
        plant: makes its parts for one story.
    """

    name: str
    what: str
    promise: str
    evidence: str
    plant: Callable[[], Parts]


# -- who runs ----------------------------------------------------------------------------------


class _RestartsAfterCancel(OutgoingMigration):
    """A cancel always lets the guest run, also when it comes too late."""

    def cancel(self) -> None:
        super().cancel()
        if self.status in (MigrationStatus.DEVICE, MigrationStatus.COMPLETED):
            self.machine.vm_start()


class _StartsAnyway(IncomingMigration):
    """What comes behind the devices is thought not to matter."""

    def process_incoming_migration_co(self, f: QEMUFileReader) -> None:
        super().process_incoming_migration_co(f)
        if self.load_error is not None and self.load_error.path[:1] == ("vmdesc",):
            self.machine.vm_start()


class _StaysStopped(OutgoingMigration):
    """A failure behind the stop of the guest forgets to let it run on."""

    def migration_iteration_finish(self) -> None:
        if self.status is not MigrationStatus.FAILED:
            super().migration_iteration_finish()


# -- what arrives ------------------------------------------------------------------------------


def _complete_without_coming_round(f: QEMUFileWriter, opaque: Opaque) -> int:
    """The last round goes from where the one before stopped to the end of RAM."""
    ram: RAMState = opaque
    outgoing = ram.outgoing
    for number, block in enumerate(ram.migratable()):
        if number < outgoing.block:
            block.memory.mark_clean(0, block.used_pages)
        elif number == outgoing.block:
            block.memory.mark_clean(0, min(outgoing.page, block.used_pages))
    return ram_save_complete(f, opaque)


def _lost_page() -> Parts:
    return Parts(
        prepare=lambda machine: _replace_handlers(
            machine, save_live_complete=_complete_without_coming_round
        )
    )


def _keeps_bitmap() -> Parts:
    """A second save of the same machine goes on with the dirty pages of the first one."""

    def prepare(machine: Machine) -> None:
        earlier: list[bytes] = []

        def setup(f: QEMUFileWriter, opaque: Opaque) -> int:
            ram: RAMState = opaque
            blocks = ram.migratable()
            kept = [bytes(block.memory.dirty) for block in blocks] if earlier else []
            result = ram_save_setup(f, opaque)
            for block, pages in zip(blocks, kept, strict=False):
                block.memory.dirty[:] = pages
            earlier.append(b"")
            return result

        _replace_handlers(machine, save_live_setup=setup)

    return Parts(prepare=prepare)


def _stale_block() -> Parts:
    """The last block is a static variable, and is not looked up again for the same name."""
    static: list[RAMBlock] = []

    class RAMLoaderWithStatic(RAMLoader):
        def find_block(self, flags: int, address: int, start: int) -> RAMBlock:
            block = super().find_block(flags, address, start)
            if flags & RAMFlag.CONTINUE:
                return block
            if static and static[0].idstr == block.idstr:
                self.context.incoming.last_block = static[0]
                return static[0]
            static[:] = [block]
            return block

    def prepare(machine: Machine) -> None:
        if machine.ram is not None:
            machine.ram.loader = RAMLoaderWithStatic

    return Parts(prepare=prepare)


_FAILED: Final = "load_failed"


class _RemembersFailure(IncomingMigration):
    """The error of a load that failed is a static variable, which nobody sets back."""

    def process_incoming_migration_co(self, f: QEMUFileReader) -> None:
        static = vars(self.machine.board)
        if _FAILED in static:
            f.set_error(-EIO)
        super().process_incoming_migration_co(f)
        if self.status is MigrationStatus.FAILED:
            static[_FAILED] = True


# -- what is left behind -----------------------------------------------------------------------


class _LeavesHandler(OutgoingMigration):
    """What a migration registers is taken away again by each of its ends but one."""

    def migration_thread(self) -> None:
        self.machine.stop_handlers.append(self._stopped)
        super().migration_thread()

    def migrate_fd_cleanup(self) -> None:
        cancelled = self.status is MigrationStatus.CANCELLING
        super().migrate_fd_cleanup()
        handlers = self.machine.stop_handlers
        if not cancelled and self._stopped in handlers:
            handlers.remove(self._stopped)

    def _stopped(self) -> None:
        """Nothing to do."""


class _HoldsConnection(IncomingMigration):
    """After a failure the connection stays open, and the source waits for room in it."""

    def run(self, source: Source) -> MigrationStatus:
        return super().run(_Unclosed(source, self))


class _Unclosed:
    def __init__(self, source: Source, migration: IncomingMigration) -> None:
        self._source = source
        self._migration = migration

    def read(self, size: int) -> bytes:
        return bytes(self._source.read(size))

    def close(self) -> None:
        if self._migration.status is not MigrationStatus.FAILED:
            self._source.close()


# -- how long it takes -------------------------------------------------------------------------


class _CountsInSeconds(OutgoingMigration):
    """The limit on the downtime is taken for seconds."""

    @property
    def threshold_size(self) -> int:
        return 1000 * super().threshold_size


class _IgnoresCancel(OutgoingMigration):
    """A cancel that meets the stop of the guest is forgotten."""

    def migration_completion(self) -> None:
        if self.status is MigrationStatus.CANCELLING:
            self.status = MigrationStatus.ACTIVE
        super().migration_completion()

    def cancel(self) -> None:
        if self.status is not MigrationStatus.DEVICE:
            super().cancel()
            return
        # It says that it will, and goes on.
        self.status = MigrationStatus.CANCELLING


# -- what is left of the guest -------------------------------------------------------------------


class _GoesBack(OutgoingMigration):
    """A failure puts the processor back to how it was when the migration began."""

    def migration_thread(self) -> None:
        self._began = Capture(self.machine.devices.get("cpu"))
        super().migration_thread()

    def migration_iteration_finish(self) -> None:
        super().migration_iteration_finish()
        if self.status is MigrationStatus.FAILED and self.stopped_digest is not None:
            self._began.restore()


class _ResetsDevices(IncomingMigration):
    """A load that fails resets the devices, as a loadvm does before it begins."""

    def process_incoming_migration_co(self, f: QEMUFileReader) -> None:
        super().process_incoming_migration_co(f)
        if self.status is MigrationStatus.FAILED:
            self.machine.reset()


def _replace_handlers(machine: Machine, **changes: Callable[..., int]) -> None:
    """Give RAM's entry other callbacks."""
    for entry in machine.savevm.handlers:
        if entry.is_ram and entry.ops is not None:
            entry.ops = dataclasses.replace(entry.ops, **changes)  # type: ignore[arg-type]


def _static_parts(parts: Parts) -> Callable[[], Parts]:
    return lambda: parts


BUGS: Final[tuple[MigrationBug, ...]] = (
    MigrationBug(
        "source-restarts",
        "the source's guest is restarted by a cancel that comes when the destination takes over",
        ONE_RUNNER,
        "source runs on",
        _static_parts(Parts(outgoing=_RestartsAfterCancel)),
    ),
    MigrationBug(
        "starts-anyway",
        "the destination runs although its load has failed, if that was behind the devices",
        ONE_RUNNER,
        "runs too early",
        _static_parts(Parts(incoming=_StartsAnyway)),
    ),
    MigrationBug(
        "lost-page",
        "the last round loses dirty pages in front of where the one before stopped",
        SAME_STATE,
        "digest",
        _lost_page,
    ),
    MigrationBug(
        "cancel-leaves-handler",
        "a cancelled migration leaves a handler registered",
        NOTHING_LEFT,
        "stop handlers",
        _static_parts(Parts(outgoing=_LeavesHandler)),
    ),
    MigrationBug(
        "retry-stale-bitmap",
        "a second attempt sends only what the first has left dirty",
        SAME_STATE,
        "digest",
        _keeps_bitmap,
    ),
    MigrationBug(
        "retry-stale-error",
        "a destination whose load has failed refuses every other one",
        RETRY,
        "completed failed",
        _static_parts(Parts(incoming=_RemembersFailure)),
    ),
    MigrationBug(
        "stale-block",
        "the RAM block of an earlier load takes the pages of the next one",
        SAME_STATE,
        "digest",
        _stale_block,
    ),
    MigrationBug(
        "stays-stopped",
        "a failure behind the stop of the guest leaves it stopped",
        ONE_RUNNER,
        "none runs: source",
        _static_parts(Parts(outgoing=_StaysStopped)),
    ),
    MigrationBug(
        "holds-connection",
        "a destination that fails does not close the connection",
        ENDS,
        "waits for ever",
        _static_parts(Parts(incoming=_HoldsConnection)),
    ),
    MigrationBug(
        "ignores-cancel",
        "a cancel between the stop of the guest and the end is said to be obeyed, and is not",
        ENDS,
        "cancel ignored",
        _static_parts(Parts(outgoing=_IgnoresCancel)),
    ),
    MigrationBug(
        "downtime-in-seconds",
        "the limit on the downtime is taken for seconds",
        DOWNTIME,
        "limit",
        _static_parts(Parts(outgoing=_CountsInSeconds)),
    ),
    MigrationBug(
        "goes-back",
        "a failure behind the stop of the guest puts its processor back to an earlier state",
        UNHARMED,
        "cpu",
        _static_parts(Parts(outgoing=_GoesBack)),
    ),
    MigrationBug(
        "resets-devices",
        "a destination whose load has failed resets its devices",
        UNHARMED,
        "destination",
        _static_parts(Parts(incoming=_ResetsDevices)),
    ),
)
"""Every one; those of the first seven are what the simulation was built to find."""


def bug_named(name: str) -> MigrationBug:
    """The bug of that name.

    Raises:
        KeyError: there is none.
    """
    return {bug.name: bug for bug in BUGS}[name]
