"""What is known of an internal snapshot, and how QEMU prints it.

Source: ``QEMUSnapshotInfo`` of QEMU ``include/block/snapshot.h``;
``bdrv_snapshot_dump`` and ``get_human_readable_size`` of ``block/qapi.c``.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Final

NAME_MAX: Final = 255
"""Bytes of a snapshot's name (``char name[256]``)."""

_SUFFIXES: Final = "KMGT"
_NS_PER_S: Final = 1_000_000_000
_COLUMNS: Final = "%-10s%-20s%7s%20s%15s"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One internal snapshot of one disk.

    Attributes:
        id_str: unique on its disk, a decimal number unless a caller chose it.
        name: what the operator calls it.
        vm_state_size: bytes of VM state that lie with it; 0 on a disk without.
        date_sec, date_nsec: when it was made, since 1970 in UTC.
        vm_clock_nsec: virtual time of the machine.
    """

    id_str: str = ""
    name: str = ""
    vm_state_size: int = 0
    date_sec: int = 0
    date_nsec: int = 0
    vm_clock_nsec: int = 0

    def goes_by(self, id_or_name: str) -> bool:
        """Whether ``id_or_name`` means this snapshot (``bdrv_snapshot_find``)."""
        return id_or_name in (self.id_str, self.name)

    def made_with(self, other: "SnapshotInfo") -> bool:
        """Whether both are of one savevm: the same but for the size of the VM
        state, which only one disk has."""
        return replace(self, vm_state_size=0) == replace(other, vm_state_size=0)

    def line(self, zone: tzinfo = UTC) -> str:
        """The row of ``info snapshots``, its date in ``zone``."""
        date = datetime.fromtimestamp(self.date_sec, zone).strftime("%Y-%m-%d %H:%M:%S")
        seconds = self.vm_clock_nsec // _NS_PER_S
        clock = "%02d:%02d:%02d.%03d" % (  # noqa: UP031 -- C's format, to be compared with it
            seconds // 3600,
            seconds // 60 % 60,
            seconds % 60,
            self.vm_clock_nsec // 1_000_000 % 1000,
        )
        size = human_readable_size(self.vm_state_size)
        return _COLUMNS % (self.id_str, self.name, size, date, clock)


HEADER: Final = _COLUMNS % ("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK")


def human_readable_size(size: int) -> str:
    """A size in at most four digits and a suffix.

    >>> [human_readable_size(n) for n in (999, 1000, 10_239, 10_240, 5 << 30)]
    ['999', '1.0K', '10.0K', '10K', '5.0G']
    """
    if size <= 999:
        return str(size)
    base = 1024
    for suffix in _SUFFIXES[:-1]:
        if size < 10 * base:
            return f"{size / base:.1f}{suffix}"
        if size < 1000 * base:
            return f"{(size + base // 2) // base}{suffix}"
        base *= 1024
    if size < 10 * base:
        return f"{size / base:.1f}{_SUFFIXES[-1]}"
    return f"{(size + base // 2) // base}{_SUFFIXES[-1]}"


@dataclass(frozen=True, slots=True)
class PartialSnapshots:
    """Snapshots of one disk that belong to no snapshot of the whole machine.

    Attributes:
        device: name of the disk.
        snapshots: oldest first.
    """

    device: str
    snapshots: tuple[SnapshotInfo, ...]


@dataclass(frozen=True, slots=True)
class SnapshotListing:
    """What ``info snapshots`` found.

    Attributes:
        snapshots: those that every disk has, in the order of the disk with the
            VM state.
        incomplete: those of that disk that another disk lacks; they cannot be
            loaded.
        partial: what each disk has beside those that all have, where it is to be
            shown; no entry for a disk that has nothing else.
    """

    snapshots: tuple[SnapshotInfo, ...]
    incomplete: tuple[SnapshotInfo, ...] = ()
    partial: tuple[PartialSnapshots, ...] = ()

    def text(self, zone: tzinfo = UTC) -> str:
        """What the monitor prints, dates in ``zone``.

        Partial snapshots are told of in the words of a later QEMU.
        """
        return "\n\n".join((self._whole(zone), *(self._rest(part, zone) for part in self.partial)))

    def _whole(self, zone: tzinfo) -> str:
        if self.snapshots:
            return _table(self.snapshots, zone)
        if self.incomplete or self.partial:
            return "There is no suitable snapshot available"
        return "There is no snapshot available."

    @staticmethod
    def _rest(part: PartialSnapshots, zone: tzinfo) -> str:
        title = f"List of partial (non-loadable) snapshots on '{part.device}':"
        return f"{title}\n{_table(part.snapshots, zone)}"


def _table(snapshots: tuple[SnapshotInfo, ...], zone: tzinfo) -> str:
    return "\n".join((HEADER, *(info.line(zone) for info in snapshots)))


def cut_name(name: str) -> str:
    """The part of a name that a snapshot can hold (``pstrcpy``)."""
    return name.encode()[:NAME_MAX].decode(errors="ignore")
