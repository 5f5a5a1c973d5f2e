"""The one place where our dataclasses become JSON and come back, validated.

Bytes are written as base64, enums by value, paths as they are spelled; a field
that a later version added is ignored, a field that is missing or of another
type is an error that names it.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class DamagedError(ValueError):
    """These bytes are not the JSON of what was asked for; the text says where."""


def encode(value: object) -> bytes:
    """``value`` as JSON for machines: one line, no newline at its end."""
    return msgspec.json.encode(value, enc_hook=_plain)


def encode_pretty(value: object) -> bytes:
    """``value`` as JSON that people can read too: indented, with a last newline."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def decode(data: bytes, kind: type[T]) -> T:
    """The ``kind`` that ``data`` holds.

    Raises:
        DamagedError: it is no JSON, or JSON of something else.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_typed)
    except msgspec.ValidationError as error:
        raise DamagedError(str(error)) from error
    except msgspec.DecodeError as error:
        raise DamagedError(f"no JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"no JSON: not UTF-8 at byte {error.start}") from error


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _typed(kind: type[object], value: object) -> object:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"a {kind.__name__} cannot be read from JSON")
