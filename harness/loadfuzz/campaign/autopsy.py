"""What a worker's death says about the target."""

from pathlib import Path

from loadfuzz.campaign.batch import Batch
from loadfuzz.children import Exit
from loadfuzz.engines.last_input import describe_death
from loadfuzz.findings import Finding


class Autopsy:
    """Makes findings of deaths.

    Args:
        out: the campaign's folder.
    """

    __slots__ = ("_out",)

    def __init__(self, out: Path) -> None:
        self._out = out

    def __call__(self, batch: Batch, end: Exit, silent: bool) -> Finding | None:
        """The finding that the death of ``batch``'s worker is, if it is one."""
        return describe_death(self._out, batch.worker, end.returncode, stalled=silent)
