"""The devices of the simulated machine, one file each.

Each is a :class:`~savevm.devices.base.SimDevice`: a state with a description, the
checks its load makes, the invariants it must keep, and what it does in a guest
step.  :mod:`savevm.board` puts them together.
"""

from savevm.devices.base import Fault, SimDevice

__all__ = ["Fault", "SimDevice"]
