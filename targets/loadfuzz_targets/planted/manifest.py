"""Every planted bug, and the table of them."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.live_footer import LIVE_FOOTER
from loadfuzz_targets.planted.nic_address import NIC_ADDRESS
from loadfuzz_targets.planted.peek_once import PEEK_ONCE
from loadfuzz_targets.planted.ps2_ring_walk import PS2_RING_WALK
from loadfuzz_targets.planted.ram_commit import RAM_COMMIT
from loadfuzz_targets.planted.rtc_month import RTC_MONTH

BUGS: Final[tuple[PlantedBug, ...]] = (
    RTC_MONTH,
    PS2_RING_WALK,
    RAM_COMMIT,
    LIVE_FOOTER,
    NIC_ADDRESS,
    PEEK_ONCE,
)

COLUMNS: Final = ("name", "bug_class", "device", "field", "trigger", "oracle", "mirrors")


def rows() -> list[dict[str, str]]:
    """The manifest as data: one row a bug, :data:`COLUMNS` as keys."""
    return [{column: getattr(bug, column) for column in COLUMNS} for bug in BUGS]


def bug_named(name: str) -> PlantedBug:
    """The bug of that name.

    Raises:
        KeyError: there is none.
    """
    return {bug.name: bug for bug in BUGS}[name]
