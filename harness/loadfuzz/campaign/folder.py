"""The campaign's folder: what is where, and who may write in it.

::

    campaign.json        how the campaign was started
    events.ndjson        what happened, without times, process ids or paths
    corpus/<sha256>      streams worth mutating
    outsiders            digests of those that came from outside, to be judged by each worker
    findings/<name>/     one folder per finding, see loadfuzz.repro.folder
    quarantine/<sha256>  streams that end every worker that starts from them, and files that
                         do not hold what their names say
    machine/<sha256>     the stream that the target was fitted to, when it was
    worker-N/            what worker N needs to remember
    stats/               the numbers, see loadfuzz.reporters.stats
    lock                 held while the campaign runs
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadfuzz import __version__, codec
from loadfuzz.campaign.settings import Settings
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.storage import (
    Corpus,
    CorruptEntryError,
    FolderLock,
    explain,
    is_unfinished,
    sweep,
    write_atomic,
)
from loadfuzz.wording import printable

FORMAT_VERSION: Final = 1
"""Version of this layout and of ``campaign.json``."""
DEFAULT_PARENT: Final = Path("loadfuzz-out")
"""Where campaigns go when nobody says where."""
SHARED_AGE_S: Final = 3600.0
"""Unfinished files in a folder that others share are left alone for so long: none of them
takes more than seconds, but clocks of two machines differ."""
STEM_MAX: Final = 48
"""Characters of a target's name in that of its folder; a command may be long."""
_NUMBER_MAX: Final = 1_000_000
"""Campaigns of one target side by side; nobody keeps more."""

_MANIFEST: Final = "campaign.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``campaign.json``.

    Attributes:
        format_version: :data:`FORMAT_VERSION`.
        loadfuzz: version that started the campaign.
        settings: as started.
    """

    format_version: int
    loadfuzz: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class _Version:
    format_version: int


@dataclass(frozen=True, slots=True)
class CampaignFolder:
    """A campaign's folder that exists.

    Attributes:
        path: absolute.
        shown: as people are to see it: as they gave it.
        resumed: it held a campaign before.
        made: it was not there before.
    """

    path: Path
    shown: Path
    resumed: bool
    made: bool = False

    @property
    def corpus(self) -> Corpus:
        """Its corpus."""
        return Corpus(self.path / "corpus")

    @property
    def findings(self) -> Path:
        """Where findings are."""
        return self.path / "findings"

    def quarantine(self, digest: str) -> bool:
        """Take a stream out of the corpus, so that workers start without it.

        Returns:
            Whether it was there.

        Raises:
            OSError: it is there and cannot be moved.
        """
        place = self.path / "quarantine"
        place.mkdir(exist_ok=True)
        try:
            (self.path / "corpus" / digest).rename(place / digest)
        except FileNotFoundError:
            return False
        return True

    def quarantine_corrupt(self) -> list[str]:
        """Take out of the corpus what is not what its name says, as power loss or a bad disk
        leaves it; returns the digests that those should have had.

        Raises:
            OSError: an entry cannot be read, or not be moved.
        """
        corrupt = []
        for digest in self.corpus.digests():
            try:
                self.corpus.read(digest)
            except CorruptEntryError:
                self.quarantine(digest)
                corrupt.append(digest)
            except FileNotFoundError:
                continue  # another shard was faster
        return corrupt

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.ndjson"

    def worker(self, index: int) -> Path:
        """The folder of a worker, made if need be."""
        path = self.path / f"worker-{index}"
        path.mkdir(exist_ok=True)
        return path

    def discard(self) -> None:
        """Remove what a campaign that never began has laid out here; nothing of an older one."""
        if self.resumed:
            return
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)
            if self.shown.parent == DEFAULT_PARENT:
                with suppress(OSError):  # it has other campaigns
                    self.path.parent.rmdir()
            return
        for name in ("corpus", "findings", "machine", "quarantine", "stats"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (_MANIFEST, "events.ndjson", "outsiders", "lock"):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self, settings: Settings) -> Iterator[None]:
        """Keep everybody else out, and lay out what is missing.

        Raises:
            UsageError: another campaign runs here.
            InfraError: the folder cannot be written.
        """
        try:
            with FolderLock(self.path / "lock"):
                for name in ("corpus", "findings"):
                    (self.path / name).mkdir(exist_ok=True)
                for place in (
                    self.path,
                    self.path / "corpus",
                    self.findings,
                    self.path / "machine",
                ):
                    # Other shards write there too, each file within seconds.
                    sweep(place, older_s=SHARED_AGE_S if place.is_symlink() else 0.0)
                if not self.resumed:
                    seeds = tuple(printable(seed) for seed in settings.seeds)
                    shown = replace(settings, seeds=seeds)
                    manifest = Manifest(FORMAT_VERSION, __version__, shown)
                    write_atomic(self.path / _MANIFEST, codec.encode_pretty(manifest))
                yield
        except OSError as error:
            raise explain(error, f"writing in {self.shown}") from error


def is_campaign(out: Path) -> bool:
    """Whether a folder is that of a campaign."""
    return (out / _MANIFEST).is_file()


def beside(out: Path) -> Path:
    """``out``, or where that holds a campaign the first of ``out-2``, ``out-3``, … that does
    not.

    Raises:
        UsageError: all of them do.
    """
    named = out if out.name not in {"", ".."} else out.resolve()
    if not named.name:
        raise UsageError(f"there is nothing beside {out}; name another folder with --out")
    for number in range(1, _NUMBER_MAX):
        path = out if number == 1 else named.with_name(f"{named.name}-{number}")
        if not (path / _MANIFEST).exists():
            return path
    raise UsageError(f"{out.parent} is full of campaigns; name another folder with --out")


def open_folder(out: Path | None, target: str) -> CampaignFolder:
    """Find or make the folder of a campaign.

    Args:
        out: where; a new numbered folder when ``None``.
        target: that the campaign fuzzes.

    Raises:
        UsageError: ``out`` cannot be a campaign's folder; says what to do.
        InfraError: it is one and cannot be written any more.
    """
    try:
        str((out or DEFAULT_PARENT).absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            "the campaign's folder has a path that is not UTF-8, which its files could not name; "
            "choose another with --out"
        ) from None
    if out is None:
        return _make_numbered(target)
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        content = [path.name for path in out.iterdir() if not _is_empty_part(path)]
    except (FileExistsError, NotADirectoryError):
        culprit = next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), out)
        raise UsageError(f"--out {out}: {culprit} is a file; name a folder") from None
    except OSError as error:
        raise _unusable(out, error) from error
    if _MANIFEST in content:
        _check_manifest(out, target)
        try:
            _check_writable(out)
        except UsageError as error:
            # It was asked for rightly: the disk has changed.
            raise InfraError(f"{error}. Findings so far are kept") from error
        return CampaignFolder(out.resolve(), out, resumed=True)
    if "shards" in content and (out / "store.json").is_file():
        raise UsageError(
            f"--out {out} holds the shards of a campaign; run one of them with --shard, or name "
            "another folder"
        )
    if content:
        raise UsageError(
            f"--out {out}: the folder has other files in it ({min(content)}) and is no campaign's; "
            "name a new or empty folder with --out"
        )
    _check_writable(out)
    return CampaignFolder(out.resolve(), out, resumed=False, made=made)


def _is_empty_part(path: Path) -> bool:
    """Whether it is what a campaign that was killed before it began has left: nothing is in
    it."""
    if path.name == "lock" or is_unfinished(path):
        return True
    if path.name not in {"corpus", "findings"}:
        return False
    return path.is_symlink() or (path.is_dir() and next(path.iterdir(), None) is None)


def _make_numbered(target: str) -> CampaignFolder:
    path = new_folder(target)
    return CampaignFolder(path.resolve(), path, resumed=False, made=True)


def new_folder(name: str) -> Path:
    """A folder of its own below :data:`DEFAULT_PARENT`, called after a target.

    Raises:
        UsageError: there can be none.
    """
    # A target's variants have characters in their names that are trouble in paths.
    name = name.partition(",")[0]  # options of a loader make no good names
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:STEM_MAX].strip("-.") or "campaign"
    try:
        DEFAULT_PARENT.mkdir(exist_ok=True)
        taken = [
            int(ending)
            for path in DEFAULT_PARENT.glob(f"{stem}-*")
            if (ending := path.name.removeprefix(f"{stem}-")).isdecimal()
        ]
        for number in range(max(taken, default=0) + 1, _NUMBER_MAX):
            path = DEFAULT_PARENT / f"{stem}-{number:03}"
            try:
                path.mkdir()
            except FileExistsError:  # another campaign took that number just now
                continue
            return path
    except FileExistsError:
        raise UsageError(
            f"{DEFAULT_PARENT} is a file; remove it, or name a folder with --out"
        ) from None
    except OSError as error:
        raise _unusable(DEFAULT_PARENT, error) from error
    raise UsageError(f"{DEFAULT_PARENT} is full; remove old campaigns, or name a folder with --out")


def _unusable(out: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{out} cannot be used: {error.strerror}; name a folder that you may write to with --out"
    )


def _check_writable(out: Path) -> None:
    probe = out / "lock"
    try:
        probe.touch()
    except OSError as error:
        raise _unusable(out, error) from error


def read_settings(out: Path) -> Settings:
    """How the campaign in a folder was started.

    Raises:
        UsageError: it is no campaign's folder, of a newer format, or damaged.
    """
    path = out / _MANIFEST
    try:
        data = path.read_bytes()
        version = codec.decode(data, _Version).format_version
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{out} was made by a newer loadfuzz (format {version}, this one knows "
                f"{FORMAT_VERSION}); update loadfuzz, or name another folder with --out"
            )
        return codec.decode(data, Manifest).settings
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{out} is no folder of a campaign: it has no {_MANIFEST}") from None
    except OSError as error:
        raise _unusable(path, error) from error
    except codec.DamagedError as error:
        raise UsageError(f"{path} is damaged ({error}); name another folder with --out") from error


def _check_manifest(out: Path, target: str) -> None:
    before = read_settings(out).target
    if before != target:
        raise UsageError(
            f"{out} holds a campaign of target {before!r}; "
            f"run {before!r} to go on with it, or name another folder with --out for {target!r}"
        )
