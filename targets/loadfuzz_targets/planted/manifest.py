"""Every planted bug, and the table of them."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.cpu_registers import CPU_REGISTERS
from loadfuzz_targets.planted.cpu_vector import CPU_VECTOR
from loadfuzz_targets.planted.footer_id import FOOTER_ID
from loadfuzz_targets.planted.peek_once import PEEK_ONCE
from loadfuzz_targets.planted.ps2_ring_walk import PS2_RING_WALK
from loadfuzz_targets.planted.ram_commit import RAM_COMMIT

BUGS: Final[tuple[PlantedBug, ...]] = (
    CPU_VECTOR,
    PS2_RING_WALK,
    RAM_COMMIT,
    FOOTER_ID,
    CPU_REGISTERS,
    PEEK_ONCE,
)


def bug_named(name: str) -> PlantedBug:
    """The bug of that name.

    Raises:
        KeyError: there is none.
    """
    return {bug.name: bug for bug in BUGS}[name]
