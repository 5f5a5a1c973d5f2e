"""What a corpus folder says about its streams: ``manifest.json``.

One row per stream: where it is, what it is, where it came from, and what a
good loader answers.  The manifest is written by ``loadfuzz seeds make`` and
read as if somebody had damaged it on purpose.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from loadfuzz import codec
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.inputs import STREAM_SIZE_MAX

NAME: Final = "manifest.json"
"""File name of the manifest in its folder."""
FORMAT_VERSION: Final = 1
"""Version of the manifest's shape."""
MANIFEST_SIZE_MAX: Final = 4 << 20
"""Bytes of a manifest that are read: 10,000 rows fit, a corpus has some dozens."""
ROWS_MAX: Final = 10_000
"""Rows of one manifest: each is loaded by ``corpus verify``, some hundred a second."""
_DIGEST_LENGTH: Final = 64
_VERDICTS: Final = (ExitKind.ACCEPTED, ExitKind.REJECTED)


@dataclass(frozen=True, slots=True)
class Row:
    """One stream of a corpus.

    Attributes:
        file: relative to the manifest's folder, with ``/``.
        digest: SHA-256 of its bytes in hex.
        size: its bytes.
        origin: who made it, such as ``reference: every device``.
        verdict: ``accepted`` or ``rejected``: what a good loader answers.
        errno: positive errno of the refusal; 0 when accepted.
        path: where the refusal lies: section, device, field; empty when
            accepted or where there is no such place.
        why: what the row shows.
    """

    file: str
    digest: str
    size: int
    origin: str
    verdict: ExitKind
    errno: int = 0
    path: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a corpus.

    Attributes:
        format_version: :data:`FORMAT_VERSION`.
        target: whose loader the verdicts are of.
        command: that made the corpus and makes it again.
        rows: sorted by file.
    """

    format_version: int
    target: str
    command: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class _Version:
    format_version: int


def encode(manifest: Manifest) -> bytes:
    """The manifest as it stands in its file."""
    return codec.encode_pretty(manifest)


def read(folder: Path) -> Manifest:
    """The manifest of the corpus in ``folder``.

    Raises:
        UsageError: there is none, or it cannot be used; says what to do.
    """
    path = folder / NAME
    try:
        if not path.is_file():
            raise UsageError(
                f"{folder} has no {NAME}, so it is no corpus; "
                f"make one with `loadfuzz seeds make --out {folder}`"
            )
        with path.open("rb") as file:
            data = file.read(MANIFEST_SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; check its permissions"
        ) from error
    if len(data) > MANIFEST_SIZE_MAX:
        raise UsageError(
            f"{path} is longer than {MANIFEST_SIZE_MAX >> 20} MiB: no manifest of ours"
        )
    return decode(data, str(path))


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in ``data``.

    Args:
        data: the file's content.
        where: its name, for messages.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    try:
        version = codec.decode(data, _Version).format_version
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{where} has format {version}, this loadfuzz knows {FORMAT_VERSION}; "
                "update loadfuzz"
            )
        manifest = codec.decode(data, Manifest)
        _check(manifest)
    except codec.DamagedError as error:
        raise UsageError(f"{where} is damaged: {error}; take it from where it came from") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Refuse what a decoder does not see.

    Raises:
        DamagedError: a row makes no sense.
    """
    if manifest.format_version < 1:
        raise codec.DamagedError(f"format_version is {manifest.format_version}")
    if len(manifest.rows) > ROWS_MAX:
        raise codec.DamagedError(f"{len(manifest.rows)} rows, at most {ROWS_MAX} are possible")
    seen: set[str] = set()
    for row in manifest.rows:
        if not is_inside(row.file):
            raise codec.DamagedError(f"{row.file[:80]!r} is not a file inside the folder")
        if row.file in seen:
            raise codec.DamagedError(f"{row.file!r} has two rows")
        seen.add(row.file)
        if len(row.digest) != _DIGEST_LENGTH or not set(row.digest) <= set("0123456789abcdef"):
            raise codec.DamagedError(f"{row.file}: {row.digest[:80]!r} is no SHA-256 in hex")
        if not 0 <= row.size <= STREAM_SIZE_MAX:
            raise codec.DamagedError(f"{row.file}: a size of {row.size} bytes is impossible")
        if row.verdict not in _VERDICTS:
            raise codec.DamagedError(f"{row.file}: {row.verdict!s} is no verdict to expect")


def is_inside(file: str) -> bool:
    """Whether ``file`` is a plain path below a folder, whatever the system."""
    path = PurePosixPath(file)
    return (
        path.parts != ()
        and "\\" not in file
        and "\0" not in file
        and str(path) == file
        and not path.is_absolute()
        and ".." not in path.parts
        and file != NAME
    )
