"""Which files are streams, where somebody names files and folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadfuzz.errors import UsageError
from loadfuzz.inputs import STREAM_SIZE_MAX

STREAMS_MAX: Final = 100_000
"""Streams of one command: under coverage.py some hours."""
_IGNORED: Final = frozenset({".json", ".toml", ".md", ".txt", ".dict", ".ndjson"})
"""Suffixes of what lies beside streams and is none."""


def streams_in(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those in the folders that are named; of a campaign's
    folder those of its corpus.

    Raises:
        UsageError: a path is not there, there is no stream, or there are too many.
    """
    found: list[Path] = []
    for named in paths:
        path = named
        if (path / "campaign.json").is_file():
            path = named / "corpus"
        if path.is_dir():
            found += _below(path)
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path} is no file and no folder")
    if not found:
        raise UsageError(f"no streams in {', '.join(map(str, paths))}")
    if len(found) > STREAMS_MAX:
        raise UsageError(f"{len(found)} streams, at most {STREAMS_MAX} are taken; distil first")
    for path in found:
        size = path.stat().st_size
        if size > STREAM_SIZE_MAX:
            raise UsageError(f"{path} has {size} bytes, at most {STREAM_SIZE_MAX} are taken")
    return found


def _below(folder: Path) -> list[Path]:
    """The streams below a folder; of a campaign only its corpus, and nothing half written."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        if "campaign.json" in names:
            folders[:] = [name for name in folders if name == "corpus"]
            continue
        folders.sort()
        found += [
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix not in _IGNORED
        ]
    return [path for path in found if path.is_file()]
