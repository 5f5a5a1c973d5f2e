"""Finds a Python function by its name, and how it wants to be called."""

import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from loadfuzz.errors import UsageError
from savevm.errors import LoadError

Function: TypeAlias = Callable[[object], object]
"""A loader: takes one of :class:`Gives`, and may return something to be awaited."""

DEFAULT_REFUSALS: Final[tuple[type[BaseException], ...]] = (EOFError, ValueError)
"""What the standard library raises for data that ends early or makes no sense."""


class Gives(StrEnum):
    """What a function is given."""

    BYTES = "bytes"
    READER = "reader"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Call:
    """Which function, and how it is called.

    Attributes:
        module: to import.
        attribute: of the module, dotted for one of a class.
        folders: to import from first.
        refusals: dotted names of exceptions that refuse a stream; empty for the default.
        gives: what it is given; ``None`` to go by its annotation.
        returns_state: its return value stands for the loaded state.
    """

    module: str
    attribute: str
    folders: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    gives: Gives | None = None
    returns_state: bool = False

    @property
    def place(self) -> str:
        """As in an entry point."""
        return f"{self.module}:{self.attribute}"


@dataclass(frozen=True, slots=True)
class Found:
    """A function that was found.

    Attributes:
        function: itself.
        gives: what it is given.
        refusals: exceptions that refuse a stream.
        returns_state: its return value stands for the loaded state.
    """

    function: Function
    gives: Gives
    refusals: tuple[type[BaseException], ...]
    returns_state: bool


def find(call: Call) -> Found:
    """Import the function, and look at what it takes.

    Raises:
        UsageError: there is none, it takes something else, or an exception to refuse with is
            not there.
    """
    for folder in reversed(call.folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    function = _attribute(call.module, call.attribute)
    if not callable(function):
        raise UsageError(f"{call.place} is a {type(function).__name__}, and cannot be called")
    gives = call.gives or _annotated(call.place, function)
    refusals = tuple(map(_exception, call.refusals)) or DEFAULT_REFUSALS
    return Found(function, gives, (LoadError, *refusals), call.returns_state)


def _attribute(module: str, attribute: str) -> object:
    try:
        found: object = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"cannot import {module!r}: {error}; give the folder it is in with path=DIR, or "
            "install it"
        ) from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise UsageError(f"{module}:{attribute}: {error}") from error
    return found


def _exception(name: str) -> type[BaseException]:
    module, dot, attribute = name.rpartition(".")
    found = _attribute(module if dot else "builtins", attribute)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise UsageError(f"reject={name} is no exception; name one as MODULE.CLASS")
    return found


def _annotated(place: str, function: Function) -> Gives:
    """What a function says it takes."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function in C that does not tell
        return Gives.BYTES
    if not parameters:
        raise UsageError(f"{place} takes nothing; a loader takes the stream")
    hints: dict[str, object] = {}
    # An annotation may name what only a type checker imports: then its text has to do.
    with suppress(Exception):
        hints = dict(typing.get_type_hints(function))
    kind = hints.get(parameters[0].name, parameters[0].annotation)
    if kind in (inspect.Parameter.empty, object, typing.Any):
        return Gives.BYTES
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    for gives, words in _WORDS.items():
        if any(re.search(rf"\b{word}\b", text) for word in words):
            return gives
    raise UsageError(
        f"{place} takes a {text}, which is not known; say what to give it: input=bytes, "
        "input=reader or input=file"
    )


_WORDS: Final = {
    Gives.READER: ("StreamReader",),
    Gives.FILE: ("BinaryIO", "IO", "BufferedReader", "BufferedIOBase", "RawIOBase", "BytesIO"),
    Gives.BYTES: ("bytes", "bytearray", "memoryview", "Buffer", "ByteString"),
}
