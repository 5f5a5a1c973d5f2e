"""no-leak: a load gives back what it takes, and writes to nobody else's memory.

Sees: redzones that were overwritten, after accepted and refused loads alike; handlers,
timers, threads, open files and whatever else a subject counts, of which there are more
after each load of the same stream.  Cannot see: what the subject does not count or
guard (:class:`loadfuzz.abc.Accountable`), and a leak that one load in many has.
Proved by the planted bugs ``virtio-queue-count``, ``virtio-config-length``,
``nic-mac-table-unit``, ``nic-mac-table-signed``, ``nic-vfs-registered``,
``disk-bounce-leak``, ``ram-xbzrle-overrun`` and ``disk-duplicate-key``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation

NAME: Final = "no-leak"
_KINDS: Final = frozenset({ExitKind.ACCEPTED, ExitKind.REJECTED, ExitKind.CRASHED})
"""What takes neither all the time nor all the memory there is, and may be loaded again."""


def quick(trial: Trial) -> Violation | None:
    """An alarm when memory beside a buffer was overwritten; and where there is more of
    anything than before, the whole judgement."""
    if trial.execution.kind in _KINDS and trial.holds_more():
        return judge(trial)
    return _damaged(trial.damages())


def judge(trial: Trial) -> Violation | None:
    """The same, and an alarm when loading again and again piles something up."""
    violation = _damaged(trial.damages())
    if violation is not None or trial.execution.kind not in _KINDS:
        return violation
    growth = trial.growth()
    if growth is None:
        return None
    violation = _damaged(growth.damages)
    if violation is not None or not growth.piled_up:
        return violation
    name, count = growth.piled_up[0]
    return Violation(
        NAME, f"every load of this stream leaves {count} more {name} behind",
        "as many after the load as before", f"{count:+d} {name} a load", f"pile/{name}",
    )  # fmt: skip


def _damaged(damages: tuple[str, ...]) -> Violation | None:
    if not damages:
        return None
    return Violation(
        NAME, f"the load wrote past the end of {', '.join(damages)}", "redzones are whole",
        f"damaged beside {', '.join(damages)}", f"redzone/{damages[0]}",
    )  # fmt: skip


NO_LEAK: Final = Oracle(
    NAME,
    judge,
    Cost.DEAR,
    "a load leaves nothing behind and writes to nobody else's memory",
    quick,
    cost_refused=Cost.DEAREST,
)
