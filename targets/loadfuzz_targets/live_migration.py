"""Live migration: streams in parts, which arrive packet by packet.

The guest ran on while they were saved, so pages come again, as differences or as they
are, in PART sections between START and END.
"""

from typing import Final

from loadfuzz.abc import Subject
from loadfuzz.inputs import Delivery
from loadfuzz.standalone.binary import main
from loadfuzz.standalone.pytests import fuzz_test
from loadfuzz_targets.focus import FocusedTarget
from loadfuzz_targets.subject import MachineSubject
from savevm.board import DEVICE_SETS, machine_with
from savevm.trace import Trace

SEGMENT: Final = 1448
"""Bytes of a TCP segment on Ethernet."""
_DEVICES: Final = "ram"


class SocketSubject(MachineSubject):
    """A machine that gets streams as a socket delivers them."""

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Load ``stream`` in segments, unless it is delivered otherwise.

        Raises:
            LoadError: the stream is refused.
        """
        super().load(stream, delivery if delivery.chunks else Delivery((SEGMENT,)), trace)


class LiveMigrationTarget(FocusedTarget):
    """See the module."""

    def open(self) -> Subject:
        """A machine at the end of a socket."""
        return SocketSubject(machine_with(*DEVICE_SETS[_DEVICES]))


TARGET: Final = LiveMigrationTarget(
    "live-migration",
    "streams in parts, which arrive packet by packet",
    operators={"section-*": 2, "ram-*": 4, "footer-*": 1, "stream-cut": 1, "raw*": 1},
    seeds=("ram-in-parts", "ram-xbzrle"),
    devices=(_DEVICES,),
)

test_live_migration = fuzz_test(TARGET)

if __name__ == "__main__":
    main(TARGET.name)
