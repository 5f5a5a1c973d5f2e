"""In what pieces and in what order a stream sent its RAM.

A stream does not say why its sender stopped a PART section where it did, or
why it named a block again.  A machine that was built from a stream remembers,
so that it can save the same bytes once more.
"""

from dataclasses import dataclass
from typing import Final

SCHEDULE_RUNS_MAX: Final = 1 << 20
"""Runs one schedule may have (some 100 MB).  A stream that jumps about more
than that is still loaded, but saved in our own order."""


@dataclass(slots=True)
class ScheduledRun:
    """Items of one kind, on consecutive pages of one block.

    Attributes:
        kind: the flag without CONTINUE.
        block: name of the block; ``""`` for an item that is about none.
        first: number of the first page.
        count: how many.
        named: the first item carries the block's name.
    """

    kind: int
    block: str
    first: int
    count: int
    named: bool


class SaveSchedule:
    """The runs of each section, in order.

    Attributes:
        sections: START first, END last, the PARTs between them.
        complete: false if there were more runs than are remembered.
    """

    __slots__ = ("sections", "complete", "_runs")

    def __init__(self) -> None:
        self.sections: list[list[ScheduledRun]] = []
        self.complete = True
        self._runs = 0

    def begin_section(self) -> None:
        """The items noted from now on are in a section of their own."""
        self.sections.append([])

    def note(self, kind: int, block: str, first: int, count: int, *, named: bool) -> None:
        """``count`` items came."""
        section = self.sections[-1]
        last = section[-1] if section else None
        if (
            last is not None
            and not named
            and last.kind == kind
            and last.block == block
            and last.first + last.count == first
        ):
            last.count += count
        elif self._runs < SCHEDULE_RUNS_MAX:
            self._runs += 1
            section.append(ScheduledRun(kind, block, first, count, named))
        else:
            self.complete = False
