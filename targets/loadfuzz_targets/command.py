"""The target ``command``: a loader that is a program, started anew for each stream.

It is named by its command and what its exit statuses mean, as one variant::

    command:./loader {input}
    command:./loader {socket},reject=1,reject=2,crash=70,pattern=BUG:,format=vmdesc
    command:python3 loader.py,refuses=BadStream,memory=0,env=LANG=C

``{input}`` stands for the path of a file with the stream, ``{socket}`` for a Unix socket to
read it from; without either it is the program's stdin.  The options, each as often as needed,
a comma in a value written ``%2C``:

=============  ================================================================================
``accept=N``   exit status that means loaded; 0 if none is given
``reject=N``   exit status that means refused; without any, all others do
``crash=N``    exit status that means a crash
``pattern=R``  regular expression; a line of stderr with it means a crash
``refuses=E``  Python exception that means refused when it leaves the program
``env=K=V``    variable of its environment
``memory=M``   MiB of address space it may have, 0 for no limit
``format=F``   ``reference``: devices not described by a stream are the reference's;
               ``vmdesc``: only the stream itself says what is in it
=============  ================================================================================

A signal, the report of a sanitizer and an uncaught Python exception mean a crash without
being named.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadfuzz import variants
from loadfuzz.errors import UsageError
from loadfuzz.executors.command import CommandExecutor, CommandSpec
from loadfuzz.executors.command_spec import MEMORY_BYTES
from loadfuzz.inputs import Seed
from loadfuzz_targets.layouts import Layouts
from loadfuzz_targets.reference import TARGET as REFERENCE
from loadfuzz_targets.understanding import understood
from savevm.document import Document

NAME: Final = "command"
EXAMPLE: Final = "command:./loader {input}"
_OPTIONS: Final = frozenset(
    {"accept", "reject", "crash", "pattern", "refuses", "env", "memory", "format"}
)


class Layout(StrEnum):
    """Who says what stands in a section."""

    REFERENCE = "reference"
    VMDESC = "vmdesc"


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A command that loads one stream and ends (:class:`loadfuzz.abc.RemoteTarget`).

    Attributes:
        name: ``command``, or ``command:VARIANT``.
        spec: the command; ``None`` where none is named yet.
        layout: of sections.
    """

    name: str = NAME
    spec: CommandSpec | None = None
    layout: Layout = Layout.REFERENCE
    _layouts: Layouts = field(default_factory=Layouts, compare=False, repr=False)

    @property
    def summary(self) -> str:
        """One line about it."""
        if self.spec is None:
            return f"a program of yours, started for each stream ({EXAMPLE!r})"
        return f"the program {self.spec.command!r}, started for each stream"

    @property
    def stateful(self) -> bool:
        """No stream meets what another one has left."""
        return False

    def executor(
        self, folder: Path, load_timeout_s: float, *, explain: bool = True, copies: bool = False
    ) -> AbstractAsyncContextManager[CommandExecutor]:
        """See :meth:`loadfuzz.abc.RemoteTarget.executor`; to explain a hang costs nothing here, and
        nothing is copied.

        Raises:
            UsageError: no command is named.
        """
        if self.spec is None:
            raise UsageError(
                f"target {NAME!r} needs a command: name it like {EXAMPLE!r}, with {{input}} for "
                "the path of the stream; without it the stream comes on its stdin"
            )
        return CommandExecutor.open(self.spec, folder, load_timeout_s)

    def seeds(self) -> Iterable[Seed]:
        """What the reference's machines have saved; a loader of other machines is given its
        own."""
        return REFERENCE.seeds()

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document.

        A device that the reference does not have is understood by the stream's own vmdesc in
        either layout.
        """
        if self.layout is Layout.VMDESC:
            return Document.parse(stream, self._layouts.factory_for(stream))
        return understood(stream, self._layouts)

    def variant(self, name: str) -> "CommandTarget":
        """The target for a command, see the module.

        Raises:
            UsageError: it makes no sense.
        """
        command, options = variants.split(name)
        given = _Options(options)
        return CommandTarget(
            f"{NAME}:{name}",
            CommandSpec(
                command,
                accept=given.statuses("accept") or (0,),
                reject=given.statuses("reject"),
                crash=given.statuses("crash"),
                crash_patterns=given.all("pattern"),
                refusals=given.all("refuses"),
                environment=MappingProxyType(dict(given.assignments("env"))),
                memory_bytes=given.memory_bytes(),
            ),
            given.layout(),
        )

    def variants(self) -> Sequence[str]:
        """None: nobody can list all commands."""
        return ()


class _Options:
    """The options of a variant, read.

    Raises:
        UsageError: one is unknown.
    """

    def __init__(self, options: Iterable[tuple[str, str]]) -> None:
        self._options = tuple(options)
        for key, _ in self._options:
            if key not in _OPTIONS:
                raise UsageError(
                    f"a command has no option {key!r}; it has {', '.join(sorted(_OPTIONS))}. "
                    "A comma in the command itself is written %2C"
                )

    def all(self, wanted: str) -> tuple[str, ...]:
        return tuple(value for key, value in self._options if key == wanted)

    def last(self, wanted: str, otherwise: str) -> str:
        return (otherwise, *self.all(wanted))[-1]

    def statuses(self, wanted: str) -> tuple[int, ...]:
        return tuple(_number(wanted, value) for value in self.all(wanted))

    def assignments(self, wanted: str) -> Iterator[tuple[str, str]]:
        for value in self.all(wanted):
            name, equals, text = value.partition("=")
            if not name or not equals:
                raise UsageError(f"{wanted}={value} sets nothing; write {wanted}=NAME=VALUE")
            yield name, text

    def memory_bytes(self) -> int:
        return _number("memory", self.last("memory", str(MEMORY_BYTES >> 20))) << 20

    def layout(self) -> Layout:
        wanted = self.last("format", Layout.REFERENCE)
        try:
            return Layout(wanted)
        except ValueError:
            raise UsageError(f"format={wanted} is none of {', '.join(Layout)}") from None


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{option}={text} is no number; write {option}=1, or it several times")
    return int(text)


TARGET: Final = CommandTarget()
