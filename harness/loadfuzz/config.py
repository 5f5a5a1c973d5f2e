"""``loadfuzz.toml``: what a project always wants of ``loadfuzz run``.

The same keys stand at the top of ``loadfuzz.toml`` or in ``[tool.loadfuzz]`` of a
``pyproject.toml``.  A key is an option of the command line without its dashes and is read
as that option is; the command line comes first, then the environment, then this file.
Every error names the file, the line and the key.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadfuzz.errors import UsageError

NAME: Final = "loadfuzz.toml"
PYPROJECT: Final = "pyproject.toml"
TABLE: Final = "loadfuzz"
SIZE_MAX: Final = 1 << 20
"""Bytes of a file that are read; nobody writes more by hand."""
IGNORE_MAX: Final = 1000
"""Signatures that are known: as many as one worker keeps, see
:data:`loadfuzz.engines.judging.SIGNATURES_MAX`."""
FACTOR_MAX: Final = 1000
"""Largest factor on an operator's weight."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says.

    Attributes:
        path: of the file, ``None`` where there is none.
        options: of ``run``, by the name of their parameter; texts, as on a command line.
        places: where each of them stands: file, line and key.
        operators: factors on weights of mutation operators, ``None`` for all as they are.
        ignore: signatures of findings that are known and only counted.
        dear_share: dear oracles see one in so many executions, ``None`` for the default.
    """

    path: Path | None = None
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    operators: Mapping[str, int] | None = None
    ignore: tuple[str, ...] = ()
    dear_share: int | None = None


def find_config(folder: Path) -> Path | None:
    """The file that holds in ``folder``: its ``loadfuzz.toml``, or a ``pyproject.toml`` with
    our table; ``None`` where there is neither.

    Raises:
        UsageError: there is one, and it cannot be read.
    """
    own = folder / NAME
    if own.exists():
        return own
    project = folder / PYPROJECT
    if project.is_file() and TABLE in (text := _text(project)):
        try:
            tool = tomllib.loads(text).get("tool", {})
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{project} is no TOML: {error}") from error
        if isinstance(tool, dict) and TABLE in tool:
            return project
    return None


def read_config(path: Path) -> Config:
    """What a file says.

    Raises:
        UsageError: it cannot be read, is no TOML, or has a key or value that is none of ours.
    """
    text = _text(path)
    try:
        found: object = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    reader = _Reader(path, text)
    if path.name == PYPROJECT:
        for name in ("tool", TABLE):
            found = found.get(name, {}) if isinstance(found, dict) else {}
    if not isinstance(found, dict):
        raise reader.error(TABLE, "must be a table")
    return reader.config(found)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > SIZE_MAX:
        raise UsageError(f"{path} has more than {SIZE_MAX} bytes, which is no configuration")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}") from error


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._first = 0
        if path.name == PYPROJECT:
            head = re.compile(rf"\[tool\.{TABLE}[\].]")
            self._first = next(
                (at for at, line in enumerate(self._lines) if head.match(line)), 0
            )  # fmt: skip

    def error(self, key: str, text: str) -> UsageError:
        """Names where ``key`` stands."""
        return UsageError(f"{self.place(key)} {text}")

    def place(self, key: str) -> str:
        """File, line and key."""
        pattern = re.compile(rf"\s*\[?(tool\.{TABLE}\.)?[\"']?{re.escape(key)}[\"']?\s*[=\].]")
        for at, line in enumerate(self._lines[self._first :], self._first + 1):
            if pattern.match(line):
                return f"{self._path}:{at}: {key}"
        return f"{self._path}: {key}"

    def config(self, table: dict[str, object]) -> Config:
        """The whole."""
        for key in table:
            if key not in _KEYS and key not in {"operators", "ignore", "dear-share"}:
                known = ", ".join(sorted({*_KEYS, "operators", "ignore", "dear-share"}))
                raise self.error(key, f"is no key of loadfuzz; there are {known}")
        options: dict[str, object] = {}
        places: dict[str, str] = {}
        for key, (name, read) in _KEYS.items():
            if key in table:
                try:
                    options[name] = read(table[key], self._path.parent)
                    places[name] = self.place(key)
                except ValueError as error:
                    raise self.error(key, str(error)) from error
        return Config(
            self._path,
            options,
            places,
            self._operators(table["operators"]) if "operators" in table else None,
            self._ignore(table.get("ignore", [])),
            self._share(table["dear-share"]) if "dear-share" in table else None,
        )

    def _operators(self, value: object) -> dict[str, int]:
        if not isinstance(value, dict) or not value:
            raise self.error("operators", "must be a table of names and factors")
        factors: dict[str, int] = {}
        for name, factor in value.items():
            if type(factor) is not int or not 0 <= factor <= FACTOR_MAX:
                raise self.error(name, f"must be a whole number from 0 to {FACTOR_MAX}")
            factors[name] = factor
        if not any(factors.values()):
            raise self.error("operators", "leaves no operator: every factor is 0")
        return factors

    def _ignore(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.error("ignore", "must be a list of signatures, as in finding.json")
        if len(value) > IGNORE_MAX:
            raise self.error("ignore", f"has more than {IGNORE_MAX} signatures")
        return tuple(dict.fromkeys(value))

    def _share(self, value: object) -> int:
        if type(value) is not int or not 1 <= value <= 10**9:
            raise self.error("dear-share", "must be a whole number from 1 to 1000000000")
        return value


def _words(value: object, folder: Path) -> str:
    if type(value) not in (str, int, float):
        raise ValueError("must be a text or a number")
    return str(value)


def _text_of(value: object, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text")
    return value


def _texts(value: object, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _yes_or_no(value: object, folder: Path) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def _path(value: object, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a path")
    return str(folder / value)


def _paths(value: object, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of paths")
    return tuple(_path(one, folder) for one in value)


_Read = Callable[[object, Path], object]

_KEYS: Final[Mapping[str, tuple[str, _Read]]] = {
    "target": ("target", _words),
    "qemu": ("qemu", _text_of),
    "command": ("command_line", _text_of),
    "callable": ("function", _text_of),
    "loader-options": ("loader_options", _texts),
    "time": ("seconds", _words),
    "execs": ("execs", _words),
    "until-stale": ("until_stale", _words),
    "first-finding": ("first_finding", _yes_or_no),
    "load-timeout": ("load_timeout", _words),
    "workers": ("workers", _words),
    "seed": ("seed", _words),
    "engine": ("engine", _words),
    "seeds": ("seeds", _paths),
    "out": ("out", _path),
}
"""Keys that are options, with the names of their parameters."""
