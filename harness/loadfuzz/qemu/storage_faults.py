"""How storage can fail under a real QEMU: each event of qcow2, under each operation on snapshots.

blkdebug is a block driver that stands between qcow2 and the file and fails a request when
something happens in qcow2 (``BLKDBG_EVENT``; docs/devel/blkdebug.txt in QEMU).  The n-th
occurrence of an event is reached with its states: it begins in state 1, each occurrence before
the n-th leads on by one, and the error is for the last state only.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadfuzz.faults.kinds import FaultKind, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, Place

STEPS_MAX: Final = 6
"""Occurrences of an event at which it fails, counted from 0: what an operation does more often
than that it does in the same way."""
NODE: Final = "disk0"
VICTIM: Final = "victim"
"""Snapshot that is loaded, overwritten and deleted."""
OTHER: Final = "other"
"""Snapshot that nothing is done to."""
FRESH: Final = "fresh"
"""Snapshot that is made."""
FLUSH: Final = "flush"
"""Every flush, which is no event of qcow2's."""
EVENTS: Final = (
    "vmstate_load", "vmstate_save", "read_aio", "write_aio", "l1_update", "l1_grow_alloc_table",
    "l1_grow_write_table", "l1_grow_activate_table", "l2_load", "l2_update", "l2_alloc_write",
    "l2_alloc_cow_read", "cow_read", "cow_write", "reftable_load", "reftable_grow",
    "reftable_update", "refblock_load", "refblock_update", "refblock_update_part",
    "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write", "cluster_alloc",
    "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev",
    "pwritev_done", "pwritev_zero", "pwritev_rmw_head", FLUSH,
)  # fmt: skip
"""Events (``BlkdebugEvent`` of qapi/block-core.json) that qcow2 has where there is no backing
file and nothing compressed."""
_KINDS: Final = {errno.EIO: FaultKind.DISK_EIO, errno.ENOSPC: FaultKind.DISK_ENOSPC}


class Operation(StrEnum):
    """What is done while storage fails."""

    LOAD = "load"
    SAVE = "save"
    OVERWRITE = "overwrite"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class StorageFault:
    """How storage fails, and under what.

    Attributes:
        operation: what is done.
        event: at which it fails, of :data:`EVENTS`.
        errno: EIO or ENOSPC.
        step: occurrences of the event before it fails.
        once: only that request fails; else all from then on.
        immediately: it fails at once; else when the loop turns, as a disk's would.
    """

    operation: Operation
    event: str
    errno: int = errno.EIO
    step: int = 0
    once: bool = True
    immediately: bool = False

    def __str__(self) -> str:
        words = [errno.errorcode[self.errno], "once" if self.once else "always"]
        words += ["immediately"] if self.immediately else []
        return f"{self.operation}/{self.event}#{self.step}/{'/'.join(words)}"

    @property
    def plan(self) -> FaultPlan:
        """The same as part of an input: the place, and the error."""
        place = Place(PlaceKind.DISK, self.step, f"{NODE}/{self.event}")
        return FaultPlan((Fault.of(_KINDS[self.errno], place),))

    def rules(self) -> dict[str, object]:
        """blkdebug's options."""
        event = "none" if self.event == FLUSH else self.event
        error: dict[str, object] = {
            "event": event,
            "state": self.step + 1,
            "errno": self.errno,
            "once": self.once,
            "immediately": self.immediately,
        }
        if self.event == FLUSH:
            error["iotype"] = FLUSH
        steps = range(1, self.step + 1)
        states = [{"event": event, "state": n, "new_state": n + 1} for n in steps]
        # An empty list would be taken for an option that blkdebug has not got.
        return {"inject-error": [error], **({"set-state": states} if states else {})}


def table() -> Iterator[StorageFault]:
    """All that is tried: each event under each operation, with either error, once and for
    good, at once and later; and some further occurrences."""
    for operation in Operation:
        for event in EVENTS:
            for number in _KINDS:
                for once in (True, False):
                    for immediately in (False, True):
                        yield StorageFault(operation, event, number, 0, once, immediately)
            if event != FLUSH:
                for step in range(1, STEPS_MAX):
                    yield StorageFault(operation, event, step=step)
