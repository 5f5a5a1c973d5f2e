"""Takes from a real campaign, and from short runs here, what the simulation needs."""

import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.bench.results import best_of
from loadfuzz.bench.scale.model import Costs
from loadfuzz.campaign.admission import Admission
from loadfuzz.campaign.admit import Answer
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.folder import read_settings
from loadfuzz.campaign.parcel import Kept, Parcel, decode_message, encode_message
from loadfuzz.campaign.parcel_worker import PARCEL
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.stock import STREAMS_MAX
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.reporters.stats import FOLDER, PLOT_DATA, read_stats
from loadfuzz.repro.folder import finding_folders, read_manifest
from loadfuzz.storage import Corpus

ENTRIES_MAX: Final = 500
"""Streams of the corpus that are run to see what admitting one costs."""
PARCEL_TIMEOUT_S: Final = 120.0
_AT_CORPUS: Final = 3
_AT_EXECUTIONS: Final = 11


@dataclass(frozen=True, slots=True)
class Measured:
    """A real campaign.

    Attributes:
        target: what it fuzzed.
        costs: of its batches, had it been on a cluster.
        growth: (executions, streams kept by then).
        bugs: how likely each of its findings is in one execution.
    """

    target: str
    costs: Costs
    growth: list[tuple[int, int]]
    bugs: list[float]


def measure(campaign: Path, batch_s: float) -> Measured:
    """What a campaign on this machine tells about one on a cluster.

    Args:
        campaign: its folder; native engine, and it has ended.
        batch_s: seconds that a batch is to last.

    Raises:
        UsageError: the folder tells too little.
        InfraError: a process that was to be measured failed.
    """
    settings, stats = read_settings(campaign), read_stats(campaign)
    seeds = _number(stats.get("loadfuzz_seeds", ""))
    seconds, executions = _number(stats.get("run_time", "")), _number(stats.get("execs_done", ""))
    growth = _growth(campaign, seeds)
    manifests = [read_manifest(path) for path in finding_folders(campaign / "findings")]
    if not manifests or len(growth) < 2 or not seconds or not executions:
        raise UsageError(
            f"{campaign} tells too little; run a campaign of a minute or more of a target that has "
            f"findings: loadfuzz run planted --engine native --time 60s --out NEW"
        )
    digests = list(Corpus(campaign / "corpus").digests())
    streams = [Corpus(campaign / "corpus").read(digest) for digest in digests[:ENTRIES_MAX]]
    some = tuple(streams[:: max(len(streams) // STREAMS_MAX, 1)][:STREAMS_MAX])
    parcel = _parcel(settings.target, some, None, 1)
    packed = codec.encode(parcel)
    mean = sum(map(len, streams)) / len(streams)
    return Measured(
        target=settings.target,
        costs=Costs(
            rate=executions / seconds / settings.workers,
            start_s=_start_s(packed),
            batch_s=batch_s,
            pack_s=_pack_s(parcel),
            admit_s=_admit_s(settings.target, campaign, digests[:ENTRIES_MAX]),
            batch_bytes=float(len(packed)),
            stream_bytes=mean * 4 / 3,
        ),
        growth=growth,
        bugs=[1.0 / max(m.executions * settings.workers, 1) for m in manifests],
    )  # fmt: skip


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _growth(campaign: Path, seeds: int) -> list[tuple[int, int]]:
    try:
        lines = (campaign / FOLDER / PLOT_DATA).read_text().splitlines()
    except OSError:
        return []
    growth: dict[int, int] = {}
    for line in lines:
        columns = [column.strip() for column in line.split(",")]
        if len(columns) > _AT_EXECUTIONS and columns[0].isdecimal():
            kept = _number(columns[_AT_CORPUS]) - seeds
            if kept > 0:
                growth.setdefault(kept, _number(columns[_AT_EXECUTIONS]))
    return sorted((executions, kept) for kept, executions in growth.items())


def _parcel(
    target: str, streams: tuple[bytes, ...], seconds: float | None, executions: int | None
) -> Parcel:
    settings = Settings(target, Engine.NATIVE, 1, 1, seconds, executions)
    return Parcel(0, settings, Engine.NATIVE, b"", streams, ())


def _pack_s(parcel: Parcel) -> float:
    """CPU seconds to write one parcel and to read as much that comes back."""
    messages = [encode_message(Kept(stream, (), (), "")) for stream in parcel.streams]

    def both() -> None:
        codec.encode(parcel)
        for message in messages:
            decode_message(message)

    return best_of(both)[0]


def _start_s(packed: bytes) -> float:
    """Seconds of a batch that does nothing but what all do."""
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
        (Path(folder) / PARCEL).write_bytes(packed)
        start = time.perf_counter()
        try:
            subprocess.run(
                [sys.executable, "-m", "loadfuzz.campaign.parcel_worker", folder],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
                timeout=PARCEL_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.SubprocessError as error:
            raise InfraError(f"a batch cannot be done here: {error}") from error
        return time.perf_counter() - start


def _admit_s(target: str, campaign: Path, digests: list[str]) -> float:
    """Seconds that the admission takes for one stream."""
    times: list[float] = []

    def known(answer: Answer) -> None:
        times.append(time.perf_counter())

    async def prime(folder: Path) -> None:
        async with Admission(target, folder, 2.0, known):
            pass

    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for digest in digests:
            (corpus / digest).symlink_to(campaign.absolute() / "corpus" / digest)
        asyncio.run(prime(Path(name)))
    return (times[-1] - times[0]) / max(len(times) - 1, 1)
