"""Seeds that every parcel of a campaign brings, whichever streams are drawn for it.

A worker whose loader runs in a process of its own tells what it found apart from seeds, and
wants to see that some are accepted before it begins.
"""

from dataclasses import dataclass
from typing import Final

from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.storage import seeds_of

SEEDS_MAX: Final = 16
"""Seeds that travel with every parcel: a target has a handful of its own, and loading them
takes a worker less than a second."""
SEED_BYTES_MAX: Final = 4 << 20
"""Bytes of all of them, but for the first: as much again as the streams of a parcel."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """A campaign's seeds.

    Attributes:
        known: digests of all of them; none where nobody has said which they are.
        carried: of those that every parcel brings, the smallest first.
    """

    known: frozenset[str] = frozenset()
    carried: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: CampaignFolder) -> "Seeds":
        """Those of a campaign that has been prepared.

        Raises:
            OSError: its folder cannot be read.
        """
        known = seeds_of(folder.path).read() or frozenset()
        sizes: list[tuple[int, str]] = []
        for digest in known:
            try:
                sizes.append(((folder.corpus.folder / digest).stat().st_size, digest))
            except FileNotFoundError:
                continue  # distilled away, or in quarantine
        carried: list[str] = []
        room = SEED_BYTES_MAX
        for size, digest in sorted(sizes)[:SEEDS_MAX]:
            if carried and size > room:
                break
            carried.append(digest)
            room -= size
        return cls(known, tuple(carried))
