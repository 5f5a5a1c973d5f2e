"""Who does a campaign's work, seen from the campaign, and the campaign seen from them.

There are two crews: worker processes of this machine (:mod:`loadfuzz.campaign.local`)
and batches on a cluster (:mod:`loadfuzz.campaign.cluster`).  A supervisor has one of
them and knows nothing of how it works.
"""

from types import TracebackType
from typing import Final, Protocol

from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.preparation import Prepared
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.totals import Totals
from loadfuzz.events import Event

STOP_GRACE_S: Final = 5.0
"""Time a worker has to end when somebody wants to stop: one execution with all its oracles, or
the run of a tracing that is under way, and to keep what waits to be traced.  A person does not
want to wait longer."""
DEADLINE_GRACE_S: Final = 10.0
"""The same when the time is up: it may be confirming a hang, which takes seconds, and that
finding is wanted."""


class Course(Protocol):
    """A campaign as its crew needs to know it."""

    @property
    def settings(self) -> Settings:
        """What was asked for."""

    @property
    def folder(self) -> CampaignFolder:
        """Where everything is kept."""

    @property
    def totals(self) -> Totals:
        """All numbers so far."""

    @property
    def stopping(self) -> bool:
        """Somebody asked for the end, or the campaign has done what it was started for."""

    @property
    def deadline(self) -> float | None:
        """When the time is up by the event loop's clock; ``None`` while there is no such time."""

    def begin(self) -> bool:
        """The first worker is ready: from now on time counts. False when it did already."""

    def tell(self, event: Event) -> None:
        """Pass an event on to all who want to hear it."""

    def check_disk(self) -> None:
        """See that there is room.

        Raises:
            InfraError: the disk is full.
        """


class Crew(Protocol):
    """Does the work of one campaign; for one use."""

    async def __aenter__(self) -> int:
        """Get ready; returns the number of workers that it begins with.

        Raises:
            UsageError: there is no such crew to be had.
            InfraError: it cannot be had now.
        """

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    async def work(self, prepared: Prepared) -> None:
        """Work until the budget is used up or :meth:`stop` was called.

        Cancellation ends all processes of this machine.

        Raises:
            InfraError: workers, disk or target let us down.
            OSError: something cannot be written.
        """

    def stop(self, grace_s: float) -> None:
        """Ask for the end, which is to come within ``grace_s`` seconds."""

    def kill(self) -> None:
        """End at once."""
