"""Parts of one campaign that run on their own and share a folder: for matrices of CI and
arrays of jobs, where there is no cluster.

::

    store.json         what is fuzzed here
    corpus/            content-addressed, so it does not matter who writes an entry, or twice
    findings/          one folder a signature, by whoever was first
    shards/2-of-8/     the campaign of one shard; its corpus and findings are the shared ones

Nobody waits for anybody.  A worker takes in what other shards have added as it does with
that of its own campaign.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadfuzz import codec
from loadfuzz.campaign.folder import FORMAT_VERSION, CampaignFolder, is_campaign, open_folder
from loadfuzz.campaign.settings import SEED_BITS, Settings
from loadfuzz.errors import UsageError
from loadfuzz.rng import Rng
from loadfuzz.storage import explain, is_unfinished, write_atomic

SHARDS_MAX: Final = 10_000
"""Most shards of one campaign; job arrays are smaller."""
SHARED: Final = ("corpus", "findings")
SHARDS: Final = "shards"
_STORE: Final = "store.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts.

    Attributes:
        index: which one, from 1.
        count: of how many.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def settings(self, whole: Settings) -> Settings:
        """This part of what the whole campaign was asked to do: its part of the budget in
        executions, and chance of its own."""
        executions = whole.executions
        if executions is not None:
            each, rest = divmod(executions, self.count)
            executions = each + (self.index <= rest)
            if not executions:
                raise UsageError(
                    f"--execs {whole.executions} leaves nothing for shard {self}; give at least "
                    f"{self.count}"
                )
        seed = Rng(whole.seed).child(f"shard {self}").bits(SEED_BITS)
        return replace(whole, executions=executions, seed=seed)


@dataclass(frozen=True, slots=True)
class _Store:
    """Content of ``store.json``."""

    format_version: int
    target: str


def parse_shard(text: str) -> Shard:
    """The shard that ``2/8`` stands for.

    Raises:
        ValueError: it stands for none; says why.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise ValueError(f"{text!r} is no shard; give its number and how many there are, as 2/8")
    index, count = map(int, match.groups())
    if not 1 <= index <= count:
        raise ValueError(f"there is no shard {index} of {count}; they count from 1 to {count}")
    if count > SHARDS_MAX:
        raise ValueError(f"{count:,} shards are more than there may be ({SHARDS_MAX:,})")
    return Shard(index, count)


def is_store(out: Path) -> bool:
    """Whether shards share this folder."""
    return (out / _STORE).is_file()


def shards_of(out: Path) -> list[Path]:
    """The folders of all shards that have begun, by name.

    Raises:
        OSError: they cannot be listed.
    """
    folder = out / SHARDS
    return sorted(path for path in folder.iterdir() if is_campaign(path))


def open_shard(out: Path, shard: Shard, target: str) -> CampaignFolder:
    """Find or make the folder of one shard.

    Args:
        out: that all shards share.
        shard: which one.
        target: that they fuzz.

    Raises:
        UsageError: ``out`` cannot be shared, or another target is fuzzed there.
        InfraError: it cannot be written.
    """
    if is_campaign(out):
        raise UsageError(
            f"--out {out} holds a campaign that is no shard; name another folder for --shard"
        )
    if is_store(out):
        _check(out, target)
    elif out.is_dir() and not all(map(_is_ours, out.iterdir())):
        raise UsageError(
            f"--out {out}: the folder has other files in it; name a new folder, or an empty one"
        )
    folder = open_folder(out / SHARDS / f"{shard.index}-of-{shard.count}", target)
    try:
        if not is_store(out):
            write_atomic(out / _STORE, codec.encode_pretty(_Store(FORMAT_VERSION, target)))
        for name in SHARED:
            (out / name).mkdir(exist_ok=True)
            link = folder.path / name
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", name))
    except FileExistsError:
        raise UsageError(f"shard {shard} is being started in {out} by somebody else") from None
    except OSError as error:
        raise explain(error, f"writing in {out}") from error
    return folder


def _is_ours(path: Path) -> bool:
    return path.name in (*SHARED, SHARDS, _STORE) or is_unfinished(path)


def _check(out: Path, target: str) -> None:
    path = out / _STORE
    try:
        store = codec.decode(path.read_bytes(), _Store)
    except (OSError, codec.DamagedError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name another folder") from error
    if store.format_version > FORMAT_VERSION:
        raise UsageError(
            f"{out} was made by a newer loadfuzz (format {store.format_version}, this one knows "
            f"{FORMAT_VERSION}); update loadfuzz, or name another folder with --out"
        )
    if store.target != target:
        raise UsageError(
            f"the shards in {out} fuzz {store.target!r}; name another folder for {target!r}"
        )
