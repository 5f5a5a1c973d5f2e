"""Options that say which loader is fuzzed where its name alone does not: a QEMU binary, a
command, a Python function."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import click
from click.core import ParameterSource

from loadfuzz.errors import UsageError

F = TypeVar("F", bound=Callable[..., object])

QEMU: Final = "qemu"
COMMAND: Final = "command"
CALLABLE: Final = "callable"
PROFILE_DEFAULT: Final = "pc"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about the loader.

    Attributes:
        qemu: path of a QEMU binary.
        command: a command that loads a stream.
        function: ``module:function`` that does.
        options: further ones, ``key=value``.
    """

    qemu: str | None = None
    command: str | None = None
    function: str | None = None
    options: tuple[str, ...] = ()


def loader_options(function: F) -> F:
    """Add ``--qemu``, ``--command``, ``--callable`` and ``-o`` to a command."""
    for option in reversed((
        click.option(
            "--qemu",
            envvar="LOADFUZZ_QEMU",
            metavar="PATH",
            help="The QEMU binary of target qemu:PROFILE (default: the profile's own, from PATH).",
        ),
        click.option(
            "--command",
            "command_line",
            metavar="CMD",
            help="Fuzz a program: {input} becomes a file with the stream, {socket} a Unix "
            "socket to read it from; with neither it comes on stdin.",
        ),
        click.option(
            "--callable",
            "function",
            metavar="MODULE:NAME",
            help="Fuzz a Python function, plain or async, that takes bytes or an "
            "asyncio.StreamReader.",
        ),
        click.option(
            "-o",
            "--loader-option",
            "loader_options",
            multiple=True,
            metavar="KEY=VALUE",
            help="More about the loader, such as device=e1000 or memory=8 of a QEMU, reject=1 or "
            "pattern=REGEX of a command; may be repeated (see docs/own-loader.md, docs/qemu.md).",
        ),
    )):  # fmt: skip
        function = option(function)
    return function


def given_last(target: str | None, wanted: Wanted) -> tuple[str | None, Wanted]:
    """Without what the configuration says of the loader where the command line says another."""
    context = click.get_current_context()

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if typed("target"):
        return target, replace(
            wanted,
            command=wanted.command if typed("command_line") else None,
            function=wanted.function if typed("function") else None,
            qemu=wanted.qemu if typed("qemu") or (target or "").startswith(QEMU) else None,
        )
    if typed("command_line") or typed("function"):
        return None, replace(
            wanted,
            command=wanted.command if typed("command_line") else None,
            function=wanted.function if typed("function") else None,
            qemu=wanted.qemu if typed("qemu") else None,
        )
    if wanted.command is not None or wanted.function is not None:
        return (target if typed("qemu") else None), wanted
    return target, wanted


def target_of(target: str | None, wanted: Wanted, default: str) -> str:
    """The specification of what is to be fuzzed.

    Args:
        target: as given, ``None`` when it was not.
        wanted: the options.
        default: target when nothing says otherwise.

    Raises:
        UsageError: they contradict each other.
    """
    from loadfuzz import variants

    options = [_pair(option) for option in wanted.options]
    given = [name for name, value in (
        ("--command", wanted.command), ("--callable", wanted.function), ("a target", target),
    ) if value is not None]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both say what to fuzz; choose one")
    if wanted.command is not None or wanted.function is not None:
        if wanted.qemu is not None:
            raise UsageError(f"--qemu is for target qemu, not for {given[0]}")
        if wanted.command is not None:
            return f"{COMMAND}:{variants.join(_absolute(wanted.command), options)}"
        function = wanted.function or ""
        return f"{CALLABLE}:{variants.join(function, _importable(function, options))}"
    if target is None:
        target = QEMU if wanted.qemu is not None else default
    name, colon, variant = target.partition(":")
    if wanted.qemu is not None:
        if name != QEMU:
            raise UsageError(f"--qemu is for target qemu, not for {target}; try qemu:pc")
        options = [("qemu", wanted.qemu), *options]
    if not options:
        return target
    head, more = variants.split(variant) if colon else (PROFILE_DEFAULT, ())
    if not colon and name != QEMU:
        raise UsageError(f"target {target!r} has no options; -o is for qemu, command and callable")
    if wanted.qemu is not None:
        more = tuple(pair for pair in more if pair[0] != "qemu")
    return f"{name}:{variants.join(head, [*more, *options])}"


def _absolute(command: str) -> str:
    """The command with its program by absolute path, where that is a file from here: a
    finding is run again elsewhere."""
    word, blank, rest = command.partition(" ")
    if "/" not in word or word.startswith("/") or not os.access(word, os.X_OK):
        return command
    return f"{os.path.abspath(word)}{blank}{rest}"


def _importable(function: str, options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The options with absolute folders to import from, and this one if the module is in it:
    workers are started elsewhere."""
    found = [(k, os.path.abspath(v) if k == "path" else v) for k, v in options]
    module = function.partition(":")[0].partition(".")[0]
    here = module and (os.path.isfile(f"{module}.py") or os.path.isdir(module))
    if here and not any(key == "path" for key, _ in found):
        found.append(("path", os.getcwd()))
    return found


def with_qemu(target: str, binary: str) -> str:
    """The specification of a QEMU target with another binary.

    Raises:
        UsageError: it is no QEMU target.
    """
    return target_of(target, Wanted(qemu=binary), target)


def with_machine(target: str, machine: str) -> str:
    """The specification of a QEMU target as a certain machine type, if it names none itself."""
    from loadfuzz import variants

    _, colon, variant = target.partition(":")
    options = variants.split(variant)[1] if colon else ()
    if not machine or any(key == "machine" for key, _ in options):
        return target
    return target_of(target, Wanted(options=(f"machine={machine}",)), target)


def _pair(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise UsageError(f"-o {option!r}: write KEY=VALUE")
    return key, value
