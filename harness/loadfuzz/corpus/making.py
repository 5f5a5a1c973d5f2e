"""Makes the corpus of a target: its seeds, and what becomes of them when damaged.

The same code and the same target give the same bytes, on any machine: nothing
here knows the time, a random number or the file system.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from loadfuzz.abc import Target
from loadfuzz.corpus.damages import DAMAGES, Damage
from loadfuzz.corpus.manifest import FORMAT_VERSION, Manifest, Row
from loadfuzz.corpus.verify import Judge, Verdict, fits
from loadfuzz.errors import InfraError
from loadfuzz.execution import ExitKind
from loadfuzz.inputs import Seed, digest_of

SEEDS: Final = "seeds"
"""Folder of the streams that are accepted as they are: ``run --seeds`` takes it."""
DAMAGED: Final = "damaged"
"""Folder of the streams that were edited."""
SUFFIX: Final = ".stream"
COMMAND: Final = "loadfuzz seeds make"
"""What a manifest names as its maker."""


@dataclass(frozen=True, slots=True)
class Made:
    """A corpus that is not on the disk yet.

    Attributes:
        manifest: its rows.
        streams: bytes by file.
    """

    manifest: Manifest
    streams: dict[str, bytes]


def make_corpus(target: Target, damages: Iterable[Damage] = DAMAGES) -> Made:
    """Every seed of ``target``, and every damage of one.

    A damage whose seed the target does not have is left out.

    Raises:
        InfraError: the target's loader does not answer what it must; a corpus
            that says otherwise would be of no use.
    """
    judge = Judge(target)
    seeds = {seed.name: seed for seed in target.seeds()}
    rows: list[Row] = []
    streams: dict[str, bytes] = {}
    for seed in seeds.values():
        row = _row(f"{SEEDS}/{seed.name}{SUFFIX}", seed.stream, seed.origin)
        _check(row, judge(seed.stream))
        rows.append(row)
        streams[row.file] = seed.stream
    for damage in damages:
        if damage.seed not in seeds:
            continue
        row, stream = _damaged(target, damage, seeds[damage.seed])
        _check(row, judge(stream))
        rows.append(row)
        streams[row.file] = stream
    rows.sort(key=lambda row: row.file)
    return Made(Manifest(FORMAT_VERSION, target.name, COMMAND, tuple(rows)), streams)


def _row(file: str, stream: bytes, origin: str) -> Row:
    return Row(file, digest_of(stream), len(stream), origin, ExitKind.ACCEPTED)


def _damaged(target: Target, damage: Damage, seed: Seed) -> tuple[Row, bytes]:
    stream = damage.change(target.parse(seed.stream))
    file = f"{DAMAGED}/{damage.name}{SUFFIX}"
    row = Row(
        file, digest_of(stream), len(stream), f"{seed.origin}: {seed.name}, edited",
        damage.verdict, damage.errno, damage.path, damage.why,
    )  # fmt: skip
    return row, stream


def _check(row: Row, verdict: Verdict) -> None:
    if fits(row, verdict):
        return
    raise InfraError(
        f"{row.file} must be {row.verdict} (errno {row.errno} at {' / '.join(row.path)!r}), and "
        f"the loader says {verdict.kind} (errno {verdict.errno} at {' / '.join(verdict.path)!r}: "
        f"{verdict.text}); repair the loader, or the table of damages"
    )
