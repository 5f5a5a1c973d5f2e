"""What a worker's death says about the target, and what follows from it.

A loader that takes its process along is a finding.  A worker that somebody else
killed is none, although a load may have been under way: what it ran is run
again in another process before anybody is blamed.

A load that has its worker stuck when time is up is looked at too: should it not
end in another process either, it is a hang, and was found in time.
"""

import asyncio
import dataclasses
import signal
from collections.abc import Callable
from typing import Final

from loadfuzz import events
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S, Batch
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.totals import Totals
from loadfuzz.children import Exit
from loadfuzz.engines.last_input import describe_death
from loadfuzz.errors import LoadfuzzError
from loadfuzz.events import Event
from loadfuzz.findings import Finding
from loadfuzz.repro.again import Run
from loadfuzz.repro.folder import write_finding
from loadfuzz.repro.replay import replay, shows

CONFIRMATIONS: Final = 3
"""Re-runs of an input that ended a worker."""
CONFIRM_TIMEOUT_S: Final = 20.0
"""Time for them all; a crash is kept in any case.  Where a worker was stuck, a first re-run
that uses it all up is stuck too: a load has some seconds of CPU at most.  Where loads
may take longer than usual, so may this."""

_FROM_OUTSIDE: Final = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
)
"""Signals that people and kernels send; a loader that sends one to itself does it again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Death:
    """A worker that is gone before its time.

    Attributes:
        batch: it was doing.
        end: how its process ended.
        silent: we ended it, because nothing was heard of it.
        overdue: we ended it, because time was up and it did not stop.
        times: workers that died in its place, itself included.
    """

    batch: Batch
    end: Exit
    silent: bool
    times: int
    overdue: bool = False


Describe = Callable[[CampaignFolder, Death], Finding | None]
"""The finding that a death is, ``None`` when no input was under way."""


def describe(folder: CampaignFolder, death: Death) -> Finding | None:
    """By what the worker has left in its folder."""
    return describe_death(
        folder.path, death.batch.worker, death.end.returncode, stalled=death.silent or death.overdue
    )


class Deaths:
    """Deals with the deaths of a campaign's workers.

    Args:
        folder: of the campaign.
        totals: of the campaign.
        tell: hears events.
        describe: makes a finding of a death.
    """

    def __init__(
        self,
        folder: CampaignFolder,
        totals: Totals,
        tell: Callable[[Event], None],
        describe: Describe = describe,
    ) -> None:
        self._folder = folder
        self._totals = totals
        self._tell = tell
        self._describe = describe

    async def handle(self, death: Death) -> tuple[int, bool]:
        """Keep the finding that a death is, if it is one.

        Returns:
            Executions that the worker had begun, 0 when unknown; and whether
            another worker in its place has a better start than it had.

        Raises:
            OSError: the finding cannot be written.
        """
        finding = self._describe(self._folder, death)
        if finding is None:
            return 0, False
        signature = finding.signature
        known = signature in self._totals.findings or signature in death.batch.ignore
        if not known:
            finding = await _confirm(finding, stuck=death.silent or death.overdue)
            if finding.reliability[0] == 0 and death.overdue:
                return finding.executions, False
            if finding.reliability[0] == 0 and _may_be_others(death):
                self._tell(events.MachineryWarning(
                    f"worker {death.batch.worker} ended ({death.end}); what it was running does "
                    "not do that again, so somebody else did it (out of memory? killed by hand?)"
                ))  # fmt: skip
                return finding.executions, False
        # First, so that the finding is on disk whatever happens to the corpus.
        place = None if known else write_finding(self._folder.path, finding)
        quarantined = self._quarantine(finding.input.digest)
        if place is None:
            self._tell(events.FindingRepeated(death.batch.worker, finding.signature, death.times))
            return finding.executions, quarantined
        self._tell(events.FindingAnnounced(
            worker=death.batch.worker, signature=finding.signature,
            oracle=finding.violation.oracle, title=finding.violation.title,
            path=finding.violation.path, folder=place, executions=finding.executions,
            reliability=finding.reliability,
        ))  # fmt: skip
        return finding.executions, True

    def _quarantine(self, digest: str) -> bool:
        if not self._folder.quarantine(digest):
            return False
        self._tell(events.MachineryWarning(
            f"corpus entry {digest[:16]} ends workers; it is in quarantine now"
        ))  # fmt: skip
        return True


def _may_be_others(death: Death) -> bool:
    return death.silent or death.end.signal in _FROM_OUTSIDE


async def _confirm(finding: Finding, *, stuck: bool) -> Finding:
    """``finding`` with its reliability, if that can be had in reasonable time.

    Args:
        finding: to confirm.
        stuck: it is a load that did not end.
    """
    runs: list[Run] = []
    patience = max(finding.load_timeout_s / LOAD_TIMEOUT_S, 1)
    try:
        async with asyncio.timeout(CONFIRM_TIMEOUT_S * patience):
            await replay(
                finding.target, finding.input, CONFIRMATIONS,
                wanted=finding.violation, tell=runs.append, load_timeout_s=finding.load_timeout_s,
            )  # fmt: skip
    except TimeoutError:
        if stuck and not runs:
            return dataclasses.replace(finding, reliability=(1, 1))
    except LoadfuzzError:
        return finding
    if not runs:
        return finding
    again = sum(shows(run, finding.violation) for run in runs)
    return dataclasses.replace(finding, reliability=(again, len(runs)))
