"""The files of a corpus folder: reading what is there, writing what should be.

Nothing here looks into a stream; that is :mod:`loadfuzz.corpus.verify`.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from loadfuzz.corpus import manifest as manifests
from loadfuzz.corpus.manifest import Manifest
from loadfuzz.errors import UsageError
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.storage import explain, write_atomic

FILES_MAX: Final = 100_000
"""Files of a folder that are looked at: beyond it, it is not one of ours."""
DEPTH_MAX: Final = 8
"""Folders inside folders that are looked into; ours has one level."""
IGNORED: Final = frozenset({"README.md"})
"""Files a corpus may have beside its streams and manifest."""


def read_stream(folder: Path, file: str) -> bytes:
    """The bytes of one file of a corpus, which is what its name says: a file in
    that folder, and not a link out of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or longer than any input.
    """
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("is a link that leads out of the corpus")
    # Opening a named pipe would otherwise wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not path.is_file():
            raise ValueError("is no regular file")
        data = stream.read(STREAM_SIZE_MAX + 1)
    if len(data) > STREAM_SIZE_MAX:
        raise ValueError(f"is longer than the {STREAM_SIZE_MAX:,} bytes of an input")
    return data


def files_of(folder: Path) -> Iterator[str]:
    """Every file below ``folder`` with ``/`` in its name, sorted; the manifest
    and :data:`IGNORED` left out, links not followed.

    Raises:
        OSError: a folder cannot be listed.
        UsageError: there are more than :data:`FILES_MAX`.
    """
    count = 0
    stack = [("", folder, 0)]
    found: list[str] = []
    while stack:
        prefix, place, depth = stack.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                count += 1
                if count > FILES_MAX:
                    raise UsageError(
                        f"{folder} has more than {FILES_MAX:,} files; name the corpus itself"
                    )
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False) and depth < DEPTH_MAX:
                    stack.append((f"{name}/", Path(entry.path), depth + 1))
                elif prefix or entry.name not in IGNORED | {manifests.NAME}:
                    found.append(name)
    yield from sorted(found)


def write_corpus(folder: Path, manifest: Manifest, streams: Mapping[str, bytes]) -> list[str]:
    """Make ``folder`` hold exactly this corpus.

    The manifest comes last, so that a corpus that is cut short is noticed.
    Streams that an earlier manifest of the folder lists and this one does not
    are removed; a file nobody knows is left alone.

    Args:
        folder: new, empty, or with a corpus in it.
        manifest: its rows name the keys of ``streams``.
        streams: bytes by file.

    Returns:
        Files that were not there before, or had other bytes.

    Raises:
        UsageError: the folder holds something else.
        InfraError: it cannot be written.
    """
    try:
        before = _rows_before(folder)
    except OSError as error:
        raise UsageError(
            f"--out {folder} cannot be used: {error.strerror}; name a folder that you may write to"
        ) from error
    try:
        changed: list[str] = []
        for file, stream in sorted(streams.items()):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.read_bytes() == stream:
                continue
            write_atomic(path, stream, durable=False)
            changed.append(file)
        for file in sorted(before - streams.keys()):
            (folder / file).unlink(missing_ok=True)
        write_atomic(folder / manifests.NAME, manifests.encode(manifest))
    except OSError as error:
        raise explain(error, f"writing the corpus {folder}") from error
    return changed


def _rows_before(folder: Path) -> set[str]:
    """Files that the folder's manifest lists; none for a new folder."""
    if not folder.exists():
        folder.mkdir(parents=True)
        return set()
    if not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder")
    if (folder / manifests.NAME).exists():
        return {row.file for row in manifests.read(folder).rows}
    if any(folder.iterdir()):
        raise UsageError(
            f"--out {folder}: the folder has files in it and no {manifests.NAME}; "
            "name a new folder, an empty one, or a corpus"
        )
    return set()
