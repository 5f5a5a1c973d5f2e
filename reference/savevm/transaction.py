"""A failed load leaves the machine exactly as it was.

Theory of operation.  Before the first section for an opaque is loaded, the
transaction takes it under its protection: an opaque that stages its own state
(RAM, which is large) is asked to, every other is captured.  A load that fails
rolls all of them back; one that succeeds commits.  Hooks of a device change
only that device's state, so nothing else needs protecting but the board.
"""

from typing import Protocol, TypeGuard

from savevm.machine import Machine
from savevm.state import Capture
from savevm.vmstate.description import Opaque


class Staged(Protocol):
    """State that knows how to load aside and swap in."""

    def stage(self) -> None:
        """From now on, load aside."""

    def commit(self) -> None:
        """What was loaded aside becomes the state."""

    def rollback(self) -> None:
        """Forget what was loaded aside."""


def _is_staged(opaque: Opaque) -> TypeGuard[Staged]:
    # isinstance with a runtime-checkable protocol costs as much as a small load.
    return hasattr(opaque, "stage") and hasattr(opaque, "rollback")


class _Identity:
    """What a machine calls itself and its sections."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._page_bits = machine.target_page_bits
        self._names = (machine.machine_type, machine.capabilities, machine.uuid)
        self._skip_footers = machine.skip_section_footers
        self._entries = [
            (se, se.section_id, se.version_id, se.early) for se in machine.savevm.handlers
        ]

    def restore(self) -> None:
        machine = self._machine
        machine.target_page_bits = self._page_bits
        machine.skip_section_footers = self._skip_footers
        machine.machine_type, machine.capabilities, machine.uuid = self._names
        for se, section_id, version_id, early in self._entries:
            se.section_id = section_id
            se.version_id = version_id
            se.early = early


class Transaction:
    """All or nothing for one load into ``machine``."""

    def __init__(self, machine: Machine) -> None:
        self._capture = Capture(machine.board, machine.clock)
        self._staged: list[Staged] = []
        # Only a machine that adopts takes more than state from a stream.
        self._identity = _Identity(machine) if machine.adopts else None

    def protect(self, opaque: Opaque) -> None:
        """Make sure ``opaque`` can be put back; a second call does nothing."""
        if _is_staged(opaque):
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
        if self._identity is not None:
            self._identity.restore()
