"""Whether a picture can be drawn, asked before the long work whose outcome it shows."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError

_SUFFIXES: Final = frozenset({".png", ".svg", ".pdf"})


def check_picture(path: Path) -> None:
    """See that ``path`` can be a picture.

    Raises:
        UsageError: no picture has that suffix, or it has no folder.
        InfraError: matplotlib is missing.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path} is no {', '.join(sorted(_SUFFIXES))} file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for {path.name}")
    if find_spec("matplotlib") is None:
        raise InfraError("pictures need matplotlib: pip install 'loadfuzz[report]'")
