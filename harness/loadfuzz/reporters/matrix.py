"""Which device and which field was changed how often, and to what end.

Beside what was found, a campaign that finds nothing has to say what it tried: a field
that was never changed was never tested.  Fields are those of the seeds, without indices.
A failure that was traced counts where it came from, which may be a field of an earlier load.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.abc import Format
from loadfuzz.engines.blame import MATRIX_FILE
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.places import Places, group_of
from loadfuzz.storage import Corpus, CorruptEntryError, seeds_of

SIZE_MAX: Final = 1 << 26
"""Bytes of one such file: tens of thousands of fields."""

SEEDS_MAX: Final = 64
"""Seeds whose fields are listed; seeds of one machine have the same ones."""

OTHERS: Final = "(no field)"
"""Device of what no field stands for: raw bytes, and names of the stream's own."""


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field.

    Attributes:
        path: without indices.
        loads: of inputs in which it was changed, and failures that it was found to bring about.
        verdicts: these by exit kind, or :data:`loadfuzz.engines.blame.ELSEWHERE`.
    """

    path: str
    loads: int
    verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device.

    Attributes:
        device: its name.
        loads, verdicts: of all its fields.
        fields: those that were changed, the most often changed first.
        untried: those of the seeds that never were.
    """

    device: str
    loads: int
    verdicts: dict[str, int]
    fields: tuple[FieldRow, ...]
    untried: tuple[str, ...]


def read_counts(campaign: Path) -> dict[str, dict[str, int]]:
    """The counts of all workers of a campaign together.

    Raises:
        UsageError: there are none, or a file holds something else.
    """
    found = sorted(campaign.glob(f"worker-*/{MATRIX_FILE}")) + sorted(
        campaign.glob(f"shards/*/worker-*/{MATRIX_FILE}")
    )
    if not found:
        raise UsageError(
            f"{campaign} has no counts by field: they are kept for loaders in processes of their "
            "own (qemu, command) on this machine, from ten seconds after the start"
        )
    total: dict[str, dict[str, int]] = {}
    for path in found:
        try:
            with path.open("rb") as file:
                counts = codec.decode(file.read(SIZE_MAX), dict[str, dict[str, int]])
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except codec.DamagedError as error:
            raise UsageError(f"{path} is damaged: {error}; delete it") from error
        for field, verdicts in counts.items():
            row = total.setdefault(field, {})
            for kind, number in verdicts.items():
                row[kind] = row.get(kind, 0) + number
    return total


def fields_of_seeds(campaign: Path, target: Format) -> set[str]:
    """Fields of a campaign's seeds, without indices.

    Raises:
        InfraError: the corpus cannot be read.
    """
    corpus = Corpus(campaign / "corpus")
    found: set[str] = set()
    try:
        for digest in sorted(seeds_of(campaign).read() or ())[:SEEDS_MAX]:
            try:
                places = Places(target.parse(corpus.read(digest)))
            except (FileNotFoundError, CorruptEntryError):
                continue
            found.update(map(group_of, places.values))
    except OSError as error:
        raise InfraError(f"{campaign} cannot be read: {error.strerror}") from error
    return found


def rows(counts: Mapping[str, Mapping[str, int]], known: Iterable[str]) -> list[DeviceRow]:
    """The matrix, devices by name.

    Args:
        counts: loads by field and verdict.
        known: fields that there are.
    """
    devices: dict[str, list[FieldRow]] = {}
    for path, verdicts in counts.items():
        devices.setdefault(_device_of(path), []).append(
            FieldRow(path, sum(verdicts.values()), dict(verdicts))
        )
    untried: dict[str, list[str]] = {}
    for path in known:
        if path not in counts:
            untried.setdefault(_device_of(path), []).append(path)
    return [
        DeviceRow(
            device,
            sum(field.loads for field in devices.get(device, ())),
            _sum(field.verdicts for field in devices.get(device, ())),
            tuple(sorted(devices.get(device, ()), key=lambda row: (-row.loads, row.path))),
            tuple(sorted(untried.get(device, ()))),
        )
        for device in sorted({*devices, *untried})
    ]


def _device_of(path: str) -> str:
    if path.startswith("("):
        return OTHERS
    return path.partition("/")[0]


def _sum(verdicts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = {kind.value: 0 for kind in ExitKind}
    for one in verdicts:
        for kind, number in one.items():
            total[kind] = total.get(kind, 0) + number
    return total
