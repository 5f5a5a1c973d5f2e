"""A failed load leaves the machine exactly as it was.

Theory of operation.  Before the first section for an opaque is loaded, the
transaction takes it under its protection: an opaque that stages its own state
(RAM, which is large) is asked to, every other is captured.  A load that fails
rolls all of them back; one that succeeds commits.  Hooks of a device change
only that device's state, so nothing else needs protecting but the board.
"""

from typing import Protocol, runtime_checkable

from savevm.machine import Machine
from savevm.state import Capture
from savevm.vmstate.description import Opaque


@runtime_checkable
class Staged(Protocol):
    """State that knows how to load aside and swap in."""

    def stage(self) -> None:
        """From now on, load aside."""

    def commit(self) -> None:
        """What was loaded aside becomes the state."""

    def rollback(self) -> None:
        """Forget what was loaded aside."""


class Transaction:
    """All or nothing for one load into ``machine``."""

    def __init__(self, machine: Machine) -> None:
        self._capture = Capture(machine.board, machine.clock)
        self._staged: list[Staged] = []

    def protect(self, opaque: Opaque) -> None:
        """Make sure ``opaque`` can be put back; a second call does nothing."""
        if isinstance(opaque, Staged):
            if not any(opaque is staged for staged in self._staged):
                opaque.stage()
                self._staged.append(opaque)
        else:
            self._capture.add(opaque)

    def commit(self) -> None:
        """Keep everything that was loaded."""
        for staged in self._staged:
            staged.commit()
        self._staged.clear()

    def rollback(self) -> None:
        """Put everything back."""
        for staged in reversed(self._staged):
            staged.rollback()
        self._staged.clear()
        self._capture.restore()
