"""What a user says about the command that is their loader."""

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from loadfuzz.errors import UsageError

INPUT: Final = "{input}"
SOCKET: Final = "{socket}"
PLACEHOLDERS: Final = (INPUT, SOCKET)
"""All that there are."""
_BRACES: Final = re.compile(
    r"\{(\{[A-Za-z_][A-Za-z0-9_-]*\})\}|(?<!\$)(\{[A-Za-z_][A-Za-z0-9_-]*\})"
)
"""A word in two pairs of braces, which stands for itself in one; or in one pair, which is a
placeholder.  Other braces are what they are: those of JSON, and a shell's ``${NAME}``."""
MEMORY_BYTES: Final = 2 << 30
"""Address space that a loader may have: far beyond any honest state of a small machine, and
small enough that two of them do not bring a build machine down."""
STATUS_MAX: Final = 255
"""Highest exit status there is."""
PATTERN_CHARS_MAX: Final = 1000
"""Characters of one pattern: a line of a log, not a file."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command that loads one stream and ends.

    Attributes:
        command: split as a shell does, but run without one.  ``{input}`` becomes the path of
            a file with the stream, ``{socket}`` that of a Unix socket that gives the stream
            to whoever connects, and then end of file.  With neither, the stream is its stdin.
            No other ``{word}`` is known, so that a typing mistake is told; ``{{word}}`` stands
            for ``{word}`` as it is, and other braces for themselves.
        accept: exit statuses that mean: loaded.
        reject: those that mean: refused; empty for all that are named nowhere else, but
            126 to 192, with which a shell speaks of other things (see
            :func:`loadfuzz.executors.command_verdict.verdict_of`).  Where some are named, one
            that is named nowhere is a crash.
        crash: those that mean a crash.
        crash_patterns: regular expressions; a line of stderr in which one is found means a
            crash, whatever the exit status.
        refusals: class names of Python exceptions that mean: refused, when they leave a
            loader written in Python.
        environment: on top of ours.
        memory_bytes: of address space; 0 for no limit.  A program with a sanitizer in it has
            that sanitizer's limit instead, since its shadow takes terabytes of addresses.

    Raises:
        UsageError: it is no command, or contradicts itself.
    """

    command: str
    accept: tuple[int, ...] = (0,)
    reject: tuple[int, ...] = ()
    crash: tuple[int, ...] = ()
    crash_patterns: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    memory_bytes: int = MEMORY_BYTES

    def __post_init__(self) -> None:
        used = self._placeholders()
        unknown = sorted(used.difference(PLACEHOLDERS))
        if unknown:
            raise UsageError(
                f"the command {self.command!r} has {', '.join(unknown)}, and the placeholders are "
                f"{' and '.join(PLACEHOLDERS)}; write {{{unknown[0]}}} for braces that are meant "
                "as they are"
            )
        if len(used) > 1:
            raise UsageError(f"{self.command!r} has both {INPUT} and {SOCKET}; use one of them")
        codes = (*self.accept, *self.reject, *self.crash)
        if len(set(codes)) != len(codes):
            raise UsageError("an exit status is named twice; each has one meaning")
        if any(not 0 <= code <= STATUS_MAX for code in codes):
            raise UsageError(f"an exit status is a number from 0 to {STATUS_MAX}")
        if self.memory_bytes < 0:
            raise UsageError("a limit of memory below nothing; 0 is for none")
        for pattern in self.crash_patterns:
            if len(pattern) > PATTERN_CHARS_MAX:
                raise UsageError(f"a pattern has more than {PATTERN_CHARS_MAX:,} characters")
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"the pattern {pattern!r} is no regular expression: {error}; see Python's re"
                ) from error

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UsageError(f"the command {self.command!r} cannot be split: {error}") from error
        if not words or not words[0]:
            raise UsageError("there is no command; name one, such as './loader {input}'")
        if any("\0" in word for word in words):
            raise UsageError("a command with a NUL byte in it cannot be run")
        return words

    def _placeholders(self) -> set[str]:
        return {found[2] for word in self._words() for found in _BRACES.finditer(word) if found[2]}

    @property
    def wants_socket(self) -> bool:
        """It reads the stream from a socket."""
        return SOCKET in self._placeholders()

    @property
    def wants_stdin(self) -> bool:
        """It reads the stream from its stdin."""
        return not self._placeholders()

    def program(self) -> str:
        """Path of the program.

        Raises:
            UsageError: there is none of that name.
        """
        name = self._words()[0]
        found = shutil.which(name, path=self.environment.get("PATH"))
        if found is None:
            raise UsageError(
                f"cannot run {name!r}: no program of that name; build it, give its path, or make "
                "it executable (chmod +x)"
            )
        return found

    def argv(self, input_path: str, socket_path: str) -> list[str]:
        """The command as it is run, its program by path.

        Raises:
            UsageError: see :meth:`program`.
        """
        paths = {INPUT: input_path, SOCKET: socket_path}

        def stands_for(found: re.Match[str]) -> str:
            return found[1] or paths[found[2]]

        return [self.program(), *(_BRACES.sub(stands_for, word) for word in self._words()[1:])]
