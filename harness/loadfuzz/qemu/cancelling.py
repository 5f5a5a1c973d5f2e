"""Telling a source to cancel, and what it makes of that.

QEMU answers ``migrate_cancel`` with success whatever it does about it
(``qmp_migrate_cancel`` in migration/migration.c).  So it is asked for the state of the
migration right behind that: what was accepted is ``cancelling``, or ``cancelled`` already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadfuzz.faults.plan import Fault
from loadfuzz.qemu.listener import progress_of
from loadfuzz.qemu.monitor import REPLIES_MAX, Reply, encode
from loadfuzz.qemu.peers import Peer

CANCEL_HOLD_S: Final = 0.25
"""How long nothing passes while a source is told to cancel.  One that is about to stop its guest
holds its main loop as long as the socket is full, and answers only when it is not."""
_CANCEL: Final = encode("migrate_cancel")
_QUERY: Final = encode("query-migrate")
_ACCEPTED: Final = frozenset({"cancelling", "cancelled"})
_OVER: Final = frozenset({"completed", "failing", "failed"})
"""A source that is failing has made up its mind."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """What a source made of being told to cancel.

    Attributes:
        fault: that told it to.
        state: of the migration behind that, as ``query-migrate`` has it; "" where QEMU gave
            none.
        error: its words if it refused to.
    """

    fault: Fault
    state: str
    error: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it took effect."""
        return self.state in _ACCEPTED and not self.error

    @property
    def late(self) -> bool:
        """Whether the migration was over before."""
        return self.state in _OVER and not self.error

    @property
    def ignored(self) -> bool:
        """Whether the migration was not over, and goes on."""
        return not self.accepted and not self.late


class Canceller:
    """Tells a source to cancel, and hears what it made of that, at once or later.

    Args:
        source: it.

    Attributes:
        heard: what was answered, in order.
    """

    __slots__ = ("_source", "_told", "heard")

    def __init__(self, source: Peer) -> None:
        self.heard: list[Cancel] = []
        self._source = source
        self._told: list[Fault] = []

    async def tell(self, fault: Fault) -> None:
        """Have it cancel, if it can still hear that and has answered what it was told before.

        Raises:
            InfraError: it does not read, or what it answers is no QMP.
        """
        source = self._source
        if source.killed or source.owed + 2 > REPLIES_MAX:
            return
        source.monitor.send(_CANCEL, _QUERY)
        source.owed += 2
        self._told.append(fault)
        if await source.monitor.wait(source.owed, CANCEL_HOLD_S):
            self.hear(source.monitor.replies(source.owed))
            source.owed = 0

    def hear(self, answers: Sequence[Reply]) -> None:
        """Its answers to all that it was told and has not answered; fewer if it has ended."""
        told, self._told = self._told, []
        pairs = zip(answers[::2], answers[1::2], strict=False)
        for fault, (said, progress) in zip(told, pairs, strict=False):
            self.heard.append(Cancel(fault, progress_of(progress), said.error))
