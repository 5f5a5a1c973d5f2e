"""The oracle of storage that fails under loadvm, savevm and delvm.

What must follow is an error or success as it is said, a process that lives on, an image whose
other snapshot still loads, and a guest that runs after anything but a load that failed.
What qcow2 and ``save_snapshot`` (migration/savevm.c) are known to do besides are hazards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadfuzz.execution import Depth, Execution, ExitKind, Refusal
from loadfuzz.findings import Violation
from loadfuzz.qemu.storage_faults import FRESH, OTHER, VICTIM, Operation, StorageFault

CLEAN_ERROR: Final = "clean-error"
NO_HANG: Final = "no-hang"
STORAGE: Final = "storage"
RUNNING: Final = "running"
_BEFORE: Final = frozenset({VICTIM, OTHER})
_AFTER: Final = {
    Operation.LOAD: _BEFORE,
    Operation.SAVE: _BEFORE | {FRESH},
    Operation.OVERWRITE: _BEFORE,
    Operation.DELETE: frozenset({OTHER}),
}
"""Snapshots that there are when it went well."""
LEFT: Final[Mapping[Operation, frozenset[frozenset[str]]]] = {
    Operation.LOAD: frozenset({_BEFORE}),
    Operation.SAVE: frozenset({_BEFORE, _BEFORE | {FRESH}}),
    Operation.OVERWRITE: frozenset({_BEFORE, frozenset({OTHER})}),
    Operation.DELETE: frozenset({_BEFORE, frozenset({OTHER})}),
}
"""Snapshots that there may be when it was refused: as before or as after, and where one is to be
replaced neither the old nor the new, since ``save_snapshot`` deletes the old one first."""
_MUST_FAIL: Final = frozenset({(Operation.LOAD, "vmstate_load"), (Operation.SAVE, "vmstate_save")})
"""What cannot go well if its first occurrence fails: it has nothing else to read or write."""


class StorageHazard(StrEnum):
    """What QEMU does when storage fails that is known, and counted."""

    LEFT_STOPPED = "left-stopped"
    """A load has failed and the guest stands still, also where nothing had been loaded yet."""
    OLD_LOST = "old-lost"
    """A snapshot was to be replaced; it is deleted first, and there is no new one."""
    DONE_ALL_THE_SAME = "done-all-the-same"
    """An error is said, and what was to be done is done."""
    NODE_HELD = "node-held"
    """After a save that failed the block node cannot be removed any more."""
    NOT_OPENED = "not-opened"
    """The image could not even be opened."""


MEANINGS: Final[Mapping[StorageHazard, str]] = {
    StorageHazard.LEFT_STOPPED: "a load has failed, the guest stands still",
    StorageHazard.OLD_LOST: "the old snapshot is gone, there is no new one",
    StorageHazard.DONE_ALL_THE_SAME: "an error was said, and it was done",
    StorageHazard.NODE_HELD: "the disk cannot be removed any more",
    StorageHazard.NOT_OPENED: "the image could not be opened",
}
"""The same in a few words."""


@dataclass(frozen=True, slots=True)
class StorageAttempt:
    """What came of an operation while storage failed.

    Attributes:
        fault: how.
        opened: the image could be opened.
        answer: QEMU's words to the operation, "" for success.
        state: run state afterwards.
        names: snapshots of the image afterwards, ``None`` if it cannot be read.
        other: words to a load of :data:`OTHER` without faults, "" for success.
        saved: words to a load of what was said to be saved; "" for success, or where
            nothing was.
        held: the node could not be removed.
        execution: of a process that died or hangs.
    """

    fault: StorageFault
    opened: bool = True
    answer: str = ""
    state: str = RUNNING
    names: frozenset[str] | None = _BEFORE
    other: str = ""
    saved: str = ""
    held: bool = False
    execution: Execution | None = None

    @property
    def refused(self) -> bool:
        """Whether QEMU said that it went wrong."""
        return bool(self.answer)


def judge(attempt: StorageAttempt) -> tuple[Violation, ...]:
    """Every promise that was broken."""
    fault = attempt.fault
    what = f"{fault.operation} while {fault.event} fails"
    # Numbers in a path tell no two places apart, and here they do.
    place = f"{fault.operation}/{fault.event.replace('l1_', 'lone_').replace('l2_', 'ltwo_')}"
    return tuple(
        Violation(oracle, f"{what}: {title}", expected, actual, f"{place}: {title}")
        for oracle, title, expected, actual in _broken(attempt)
    )


def _broken(attempt: StorageAttempt) -> Iterator[tuple[str, str, str, str]]:
    """Oracle, title, what was expected, and what was."""
    fault = attempt.fault
    if attempt.execution is not None:
        escape = attempt.execution.escape
        words = "" if escape is None else f"{escape.type_name} {escape.message}".strip()
        if attempt.execution.kind is ExitKind.TIMED_OUT:
            yield NO_HANG, "it hangs", "an answer", words
        else:
            yield CLEAN_ERROR, f"it dies: {words}", "an error, and a living process", words
        return
    if not attempt.opened:
        return
    after = _AFTER[fault.operation]
    names = "no image" if attempt.names is None else ", ".join(sorted(attempt.names))
    if not attempt.refused:
        if fault.step == 0 and (fault.operation, fault.event) in _MUST_FAIL:
            yield STORAGE, "that is not said", "an error", "success"
        if attempt.names != after:
            yield STORAGE, "not done, and that is not said", ", ".join(sorted(after)), names
    elif attempt.names not in LEFT[fault.operation]:
        yield STORAGE, "wrong snapshots are left", ", ".join(sorted(_BEFORE)), names
    if attempt.saved:
        yield STORAGE, "what was saved does not load", "it loads", attempt.saved
    if attempt.other:
        yield STORAGE, "another snapshot does not load", "it loads", attempt.other
    stopped = attempt.refused and fault.operation is Operation.LOAD
    if (attempt.state == RUNNING) is stopped:
        wanted = "it stands still" if stopped else "it runs"
        yield STORAGE, "the guest is in the wrong state", wanted, attempt.state


def hazards_of(attempt: StorageAttempt) -> tuple[StorageHazard, ...]:
    """Known hazards that showed."""
    if attempt.execution is not None:
        return ()
    if not attempt.opened:
        return (StorageHazard.NOT_OPENED,)
    found: list[StorageHazard] = []
    operation = attempt.fault.operation
    if attempt.refused and operation is Operation.LOAD:
        found.append(StorageHazard.LEFT_STOPPED)
    lost = attempt.names == _BEFORE - {VICTIM}
    if attempt.refused and operation is Operation.OVERWRITE and lost:
        found.append(StorageHazard.OLD_LOST)
    done = operation in (Operation.SAVE, Operation.DELETE) and attempt.names == _AFTER[operation]
    if attempt.refused and done:
        found.append(StorageHazard.DONE_ALL_THE_SAME)
    if attempt.held:
        found.append(StorageHazard.NODE_HELD)
    return tuple(found)


def execution_of(attempt: StorageAttempt) -> Execution:
    """What the process did, for a finding."""
    if attempt.execution is not None:
        return attempt.execution
    if not attempt.refused:
        return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)
    refusal = Refusal(attempt.answer, attempt.fault.errno, None, ())
    return Execution(ExitKind.REJECTED, Depth.NOTHING, refusal=refusal)
