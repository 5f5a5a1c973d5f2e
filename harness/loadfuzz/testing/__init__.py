"""What tests of the harness, and of what plugs into it, have in common.

Published for your own tests: :func:`check_transport`, the virtual clock (:func:`run_virtual`,
:class:`VirtualLoop`, :class:`LoopClock`) and the scripted target (:data:`SCRIPTED`).
"""

from loadfuzz.clock import LoopClock, ManualClock
from loadfuzz.testing.scripted import TARGET as SCRIPTED
from loadfuzz.testing.transports import check_transport
from loadfuzz.virtual_loop import StuckError, VirtualLoop, run_virtual

__all__ = [
    "check_transport",
    "run_virtual", "VirtualLoop", "StuckError", "LoopClock", "ManualClock",
    "SCRIPTED",
]  # fmt: skip
